/// io_dump: what the library's readers make of tokens, images, chat templates and files, written down for a comparison by somebody else.
///   io_dump tokenize TOKENIZER                      lines {"t"} | {"b64"} | {"a", "b"}         -> {"ids", "ids_sp", "dec", "dec_skip"} | {"ids", "type_ids"}
///   io_dump stream TOKENIZER                        lines {"ids", "skip"}                      -> {"chunks", "rest"}
///   io_dump image PROCESSOR_JSON OUT_DIR IMAGE...   OUT_DIR/<file name>.safetensors, or .error.json
///   io_dump template                                lines {"template": path, "variables": {}}  -> {"out"}; a string "strftime_now" among the variables
///                                                   ("2025-01-15T12:34:56") is the clock, and `tools` and `documents` are None where they are not given
///   io_dump audio PROCESSOR_JSON OUT.safetensors WAV
///   io_dump load FILE                               -> {"ok": true}
/// An error is {"error": class, "message": ...} in the answer's place; the exit status is 2 for a wrong command line, otherwise 0.
#include <chiasm/io/audio_processor.hpp>
#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/image_file.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/io/torch_pickle.hpp>
#include <chiasm/models/blip2.hpp>
#include <chiasm/models/clip.hpp>
#include <chiasm/models/idefics.hpp>
#include <chiasm/models/llava.hpp>
#include <chiasm/models/siglip.hpp>
#include <chiasm/models/t5.hpp>
#include <chiasm/models/text_model.hpp>
#include <chiasm/pipelines/flamingo.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

using namespace chiasm;
using Answer = nlohmann::ordered_json;

namespace {

/// In ASCII: lines then end in '\n' alone for every reader, also those that know U+2028.
void print(const Answer& answer) {
  std::cout << answer.dump(-1, ' ', true, Answer::error_handler_t::replace) << '\n' << std::flush;
}

/// What `work` answers, or the error that it ended with.
template <class Work>
Answer attempt(Work&& work) {
  const auto failed = [](const char* kind, const std::exception& error) { return Answer{{"error", kind}, {"message", error.what()}}; };
  try {
    return work();
  } catch (const FileError& error) {
    return failed("FileError", error);
  } catch (const FormatError& error) {
    return failed("FormatError", error);
  } catch (const WeightError& error) {
    return failed("WeightError", error);
  } catch (const ConfigError& error) {
    return failed("ConfigError", error);
  } catch (const ShapeError& error) {
    return failed("ShapeError", error);
  } catch (const TemplateError& error) {
    return failed("TemplateError", error);
  } catch (const ArgumentError& error) {
    return failed("ArgumentError", error);
  } catch (const UnsupportedError& error) {
    return failed("UnsupportedError", error);
  } catch (const Error& error) {
    return failed("Error", error);
  } catch (const std::bad_alloc& error) {
    return failed("std::bad_alloc", error);
  } catch (const std::exception& error) {
    return failed("std::exception", error);
  }
}

/// One answer for each line of standard input.
template <class Work>
void for_each_line(Work&& work) {
  for (std::string line; std::getline(std::cin, line);)
    if (!line.empty()) print(attempt([&] { return work(Json::parse(line, "<stdin>")); }));
}

std::string from_base64(std::string_view text) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    if (c == '=') break;
    const std::size_t digit = digits.find(c);
    if (digit == std::string_view::npos) throw ArgumentError("b64: no base64");
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 0xff);
  }
  return bytes;
}

void tokenize(const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  for_each_line([&](const Json& line) {
    if (line.contains("a")) {
      const Tokenizer::Encoding pair = tokenizer.encode_pair(line["a"].as_string(), line["b"].as_string());
      return Answer{{"ids", pair.ids}, {"type_ids", pair.type_ids}};
    }
    const std::string text = line.contains("b64") ? from_base64(line["b64"].as_string()) : line["t"].as<std::string>();
    const std::vector<TokenId> ids = tokenizer.encode(text, true);
    return Answer{{"ids", tokenizer.encode(text, false)}, {"ids_sp", ids}, {"dec", tokenizer.decode(ids, false)}, {"dec_skip", tokenizer.decode(ids, true)}};
  });
}

void stream(const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  for_each_line([&](const Json& line) {
    TokenStream text(tokenizer, line.get("skip", false));
    Answer chunks = Answer::array();
    for (const TokenId id : line["ids"].as_vector<TokenId>()) {
      const std::optional<std::string> chunk = text.push(id);
      chunks.push_back(chunk ? Answer(*chunk) : Answer(nullptr));
    }
    return Answer{{"chunks", std::move(chunks)}, {"rest", text.flush()}};
  });
}

/// A safetensors file under construction.
class TensorFile {
 public:
  template <class T>
  void add(const std::string& name, DType dtype, const std::vector<std::size_t>& extents, std::span<const T> values) {
    Shape shape;
    for (const std::size_t extent : extents) shape.append(extent);
    const auto bytes = std::as_bytes(values);
    const auto kept = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    tensors_.emplace_back(name, dtype, shape, kept->data(), kept, "");
  }
  void write(const std::filesystem::path& path) const { write_safetensors(path.string(), tensors_); }

 private:
  std::vector<Weight> tensors_;
};

void write_image(const ImageProcessor& processor, const std::string& path, const std::filesystem::path& to) {
  const auto size = [](int extent) { return static_cast<std::size_t>(extent); };
  const Image image = load_image(path);
  TensorFile file;
  file.add("rgb", DType::u8, {size(image.height()), size(image.width()), 3}, image.pixels());
  const ImageInputs inputs = processor(image);
  std::vector<std::size_t> shape(inputs.pixel_values.shape().begin(), inputs.pixel_values.shape().end());
  const ImageProcessorConfig& config = processor.config();
  const auto add = [&](const std::string& name, std::vector<std::size_t> extents, std::vector<std::int64_t> values) {
    file.add(name, DType::i64, std::move(extents), std::span<const std::int64_t>(values));
  };
  if (!config.image_grid_pinpoints.empty() || config.max_image_size) shape.insert(shape.begin(), 1);  // a batch of one picture with several views
  if (!config.image_grid_pinpoints.empty()) add("image_sizes", {1, 2}, {inputs.original_height, inputs.original_width});
  if (config.patch_size) add("image_grid_thw", {1, 3}, {1, inputs.grid_rows, inputs.grid_columns});
  if (config.max_image_size) {
    add("rows", {1, 1}, {inputs.grid_rows});
    add("cols", {1, 1}, {inputs.grid_columns});
    if (config.do_pad) add("pixel_attention_mask", {1, shape[1], shape[3], shape[4]}, std::vector<std::int64_t>(shape[1] * shape[3] * shape[4], 1));
  }
  file.add("pixel_values", DType::f32, std::move(shape), inputs.pixel_values.values());
  file.write(to);
}

void images(const std::string& processor_json, const std::filesystem::path& folder, std::span<char*> paths) {
  std::filesystem::create_directories(folder);
  std::optional<ImageProcessor> processor;
  const Answer unusable = attempt([&] {
    processor = ImageProcessor::from_file(processor_json);
    return Answer();
  });
  for (const std::string path : paths) {
    const std::string name = std::filesystem::path(path).filename().string();
    const Answer answer = !processor ? unusable : attempt([&] {
      write_image(*processor, path, folder / (name + ".safetensors"));
      return Answer();
    });
    if (!answer.is_null()) std::ofstream(folder / (name + ".error.json")) << answer.dump(1, ' ', true, Answer::error_handler_t::replace) << '\n';
  }
}

void audio(const std::string& processor_json, const std::string& to, const std::string& path) {
  const AudioInputs inputs = AudioProcessor::from_file(processor_json)(load_audio(path));
  const Shape& shape = inputs.input_features.shape();
  TensorFile file;
  file.add("input_features", DType::f32, {shape.begin(), shape.end()}, inputs.input_features.values());
  file.add("attention_mask", DType::i32, {inputs.attention_mask.size()}, std::span<const std::int32_t>(inputs.attention_mask));
  file.write(to);
}

void templates() {
  std::map<std::string, ChatTemplate, std::less<>> parsed;
  for_each_line([&](const Json& line) {
    const std::string path = line["template"].as<std::string>();
    auto known = parsed.find(path);
    if (known == parsed.end()) known = parsed.emplace(path, ChatTemplate(FileMap::open(path).text(), path)).first;
    TemplateValue variables = TemplateValue::dict({{"tools", nullptr}, {"documents", nullptr}});
    RenderOptions options;
    for (const Json variable : line["variables"]) {
      int year, month;
      std::tm now{};
      if (variable.key() == "strftime_now" && variable.is_string()) {
        if (std::sscanf(variable.as<std::string>().c_str(), "%d-%d-%dT%d:%d:%d", &year, &month, &now.tm_mday, &now.tm_hour, &now.tm_min, &now.tm_sec) != 6)
          variable.fail("is no time such as 2025-01-15T12:34:56");
        now.tm_year = year - 1900, now.tm_mon = month - 1;
        options.now = now;
      } else {
        variables.set(variable.key(), TemplateValue(variable));
      }
    }
    return Answer{{"out", known->second.render(variables, options)}};
  });
}

/// Reads a config.json as its family does, short of the weights.
void read_config(const Json& config) {
  const std::string type = config["model_type"].as<std::string>();
  const auto text_model = [](const Json& text, const std::string& family) {
    if (family == "gpt_neox") GptNeoxConfig::from(text);
    else if (family == "llama") LlamaConfig::from(text);
    else if (family == "mistral") MistralConfig::from(text);
    else if (family == "mpt" || family == "mosaic_gpt") MptConfig::from(text);
    else if (family == "opt") OptConfig::from(text);
    else if (family == "qwen2") Qwen2Config::from(text);
    else throw UnsupportedError("language model '" + family + "' (" + text.file() + ")");
  };
  if (type == "llava" || type == "llava_next") {
    LlavaConfig::from(config);
    const Json text = config.find("text_config");
    text_model(text, text.get<std::string>("model_type", "llama"));
  } else if (type == "blip-2" || type == "instructblip") {
    Blip2Config::from(config);
    const Json text = config.find("text_config");
    const std::string family = text.get<std::string>("model_type", "opt");
    if (family == "t5") T5Config::from(text);
    else text_model(text, family);
  } else if (type == "idefics") {
    IdeficsConfig::from(config);
  } else if (type == "clip" || type == "siglip") {
    VitConfig::from(config["vision_config"], type + "_vision_model");
    TextTowerConfig::from(config["text_config"], type == "siglip");
  } else if (is_text_model(type)) {
    text_model(config, type);
  } else {
    throw UnsupportedError("model_type '" + type + "' (" + config.file() + ")");
  }
}

void load_json(const std::string& path, const std::string& name) {
  const auto named = [&](std::string_view part) { return name.find(part) != std::string::npos; };
  if (named("index")) {
    read_safetensors_index(path);
    return;
  }
  const Json json = Json::read(path);
  if (json.contains("weight_map")) read_safetensors_index(path);
  else if (json.get<std::string>("feature_extractor_type", "").starts_with("Whisper")) AudioProcessorConfig::from(json);
  else if (named("processor") || json.contains("image_processor_type")) ImageProcessorConfig::from(json);
  else if (named("tokenizer_config") || named("generation_config") || named("special_tokens") || named("chat_template")) return;
  else if (name.starts_with("tok") || json.contains("pre_tokenizer") || json.contains("added_tokens") || json.find("model").is_object()) Tokenizer::from_json(json);
  else read_config(json);
}

/// Metadata and tensors; of a model also what transformers would call all that.
void load_gguf(const std::string& path) {
  const Gguf file = Gguf::open(path);
  file.weights();
  if (!file.contains("tokenizer.ggml.tokens") || file.tensors().empty()) return;
  const Checkpoint checkpoint = Checkpoint::open(path);
  read_config(checkpoint.config());
  checkpoint.weights();
  Tokenizer::load(checkpoint);
}

void load(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    if (checkpoint.has("flamingo_config.json")) {
      FlamingoFamily(FlamingoParts::open(checkpoint));
      return;
    }
    read_config(checkpoint.config());
    checkpoint.weights();
    for (const char* file : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt", "vocab.txt", "qwen.tiktoken"}) {
      if (!checkpoint.has(file)) continue;
      Tokenizer::load(checkpoint);
      break;
    }
    return;
  }
  const std::string name = std::filesystem::path(path).filename().string();
  const auto ends = [&](std::initializer_list<std::string_view> endings) {
    return std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
  };
  if (ends({".json"})) return load_json(path, name);
  const FileMap file = FileMap::open(path);
  const std::string_view text = file.text();
  if (ends({".safetensors"})) Safetensors::parse(file);
  else if (ends({".gguf"}) || text.starts_with("GGUF")) load_gguf(path);
  else if (ends({".wav", ".flac", ".mp3", ".ogg"})) load_audio(path);
  else if (ends({".bin", ".pt", ".pth"})) TorchPickle::parse(file);
  else if (ends({".model", ".tiktoken"}) || name == "vocab.txt" || name == "merges.txt") Tokenizer::load(path);
  else if (ends({".jinja"})) ChatTemplate(text, path);
  else load_image(path);
}

int run(std::span<char*> arguments) {
  const std::string_view command = arguments.empty() ? "" : arguments[0];
  const std::size_t count = arguments.size();
  const auto complain = [&](auto&& work) {
    const Answer answer = attempt([&] {
      work();
      return Answer();
    });
    if (!answer.is_null()) print(answer);
    return 0;
  };
  if (command == "tokenize" && count == 2) return complain([&] { tokenize(arguments[1]); });
  if (command == "stream" && count == 2) return complain([&] { stream(arguments[1]); });
  if (command == "image" && count >= 3) return complain([&] { images(arguments[1], arguments[2], arguments.subspan(3)); });
  if (command == "template" && count == 1) return complain([] { templates(); });
  if (command == "audio" && count == 4) return complain([&] { audio(arguments[1], arguments[2], arguments[3]); });
  if (command == "load" && count == 2) {
    print(attempt([&] {
      load(arguments[1]);
      return Answer{{"ok", true}};
    }));
    return 0;
  }
  std::cerr << "usage: io_dump tokenize|stream TOKENIZER\n       io_dump image PROCESSOR_JSON OUT_DIR IMAGE...\n       io_dump template\n"
               "       io_dump audio PROCESSOR_JSON OUT.safetensors WAV\n       io_dump load FILE\n";
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  std::ios::sync_with_stdio(false);
  return run(std::span(arguments, static_cast<std::size_t>(count)).subspan(1));
}
