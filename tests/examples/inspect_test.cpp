// chiasm_inspect, the program: what it says of good folders, of broken ones, and of runs that leave the reference.
#include "structure/source_tree.hpp"
#include "support/catch.hpp"

#include <nlohmann/json.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <map>
#include <tuple>

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

struct Answer {
  int status;
  std::string text;
  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
};

/// Runs the program. Lines are joined: where they break is a matter of taste.
Answer inspect(const std::string& arguments) {
  const Result result = run(std::string(CHIASM_INSPECT) + " " + arguments);
  std::string text;
  for (const char c : result.output)
    if (c != '\n' && c != ' ')
      text += c;
    else if (!text.empty() && text.back() != ' ')
      text += ' ';
  return {WIFEXITED(result.status) ? WEXITSTATUS(result.status) : -1, text};
}
ordered_json inspect_json(const std::string& arguments) {
  return ordered_json::parse(run(std::string(CHIASM_INSPECT) + " --json " + arguments).output);
}

/// A folder that goes away with the test.
class Scratch {
 public:
  Scratch() : path_((fs::temp_directory_path() / ("chiasm_inspect_" + std::to_string(getpid()))).string()) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// A committed case's model, to be broken.
  std::string copy(const std::string& from, const std::string& name = "model") const {
    fs::create_directories(path_ + "/" + name);
    fs::copy(test_data("cases/" + from + "/model"), path_ + "/" + name, fs::copy_options::recursive);
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

struct Stored {
  std::string dtype, bytes;
  std::vector<std::size_t> shape;
};

std::map<std::string, Stored> read_tensors(const std::string& path) {
  const std::string file = read_text(path);
  std::uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof size);
  std::map<std::string, Stored> tensors;
  const ordered_json header = ordered_json::parse(file.substr(8, size));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const std::size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    tensors[name] = {entry["dtype"], file.substr(8 + size + begin, end - begin), entry["shape"]};
  }
  return tensors;
}

void write_tensors(const std::string& path, const std::map<std::string, Stored>& tensors) {
  ordered_json header = ordered_json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  write_text(path, std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + data);
}

void edit_json(const std::string& path, const std::function<void(ordered_json&)>& edit) {
  ordered_json json = ordered_json::parse(read_text(path));
  edit(json);
  write_text(path, json.dump());
}

const std::string llama = "llama_bias_headdim_v5", llava = "llava15_modern_keys";

}  // namespace

TEST_CASE("the bundled models and all committed checkpoints load") {
  const Answer shapes = inspect(source_dir() + "/examples/models/shapes-llava");
  INFO(shapes.text);
  CHECK(shapes.status == 0);
  for (const char* const words : {"llava", "pictures of ", "image tokens", " a picture", "tokenizer BPE from tokenizer.json",
                                  "chat template from chat_template.jinja", "per 1,000 tokens", "It loads."})
    CHECK(shapes.says(words));

  const ordered_json facts = inspect_json(source_dir() + "/examples/models/stories260k");
  CHECK(facts["loads"] == true);
  CHECK(facts["model_type"] == "llama");
  CHECK(facts["language"]["layers"] == 5);
  CHECK(facts["memory"]["kv_cache_bytes_per_1000_tokens"] == 5 * 4 * 8 * 2 * 4 * 1000);
  CHECK(facts["weights"]["dtypes"]["f32"]["bytes"] == facts["weights"]["bytes"]);

  const ordered_json t5 = inspect_json(test_data("cases/t5_gated_head"));
  CHECK(t5["encoder"]["layers"] == 3);
  CHECK(t5["language"]["layers"] == 2);
  CHECK(t5["language"]["head_dim"] == 12);

  for (const auto& entry : fs::directory_iterator(test_data("cases"))) {
    const ordered_json one = inspect_json(entry.path().string());
    INFO(one.dump());
    CHECK(one["loads"] == true);
    CHECK(one["parameters"] > 1000);
    CHECK(one["tokenizer"]["size"] > 100);
  }
  CHECK(inspect("--values " + test_data("cases/qwen2")).status == 0);

  for (const auto& [name, type, layers, width, heads, context] :
       {std::tuple("opt_350m_style", "opt", 3, 40, 5, 96), std::tuple("mpt_alibi", "mpt", 3, 24, 6, 128), std::tuple("gpt_neox_parallel_v5", "gpt_neox", 2, 40, 2, 128)}) {
    const ordered_json language = inspect_json(test_data(std::string("cases/") + name))["language"];
    INFO(language.dump());
    CHECK(language["type"] == type);
    CHECK(language["layers"] == layers);
    CHECK(language["width"] == width);
    CHECK(language["heads"] == heads);
    CHECK(language["context_length"] == context);
  }
}

TEST_CASE("a run that meets the reference, and one that leaves it") {
  for (const std::string name : {"llava_next_llama_v5", "clip_gelu", "siglip", "qwen2"}) {
    const Answer answer = inspect("--compare " + test_data("cases/" + name) + " " + test_data("cases/" + name + "/model"));
    INFO(answer.text);
    CHECK(answer.status == 0);
    CHECK(answer.says("stages are met."));
  }
  const Scratch scratch;
  const std::string folder = scratch / "case";
  fs::copy(test_data("cases/" + llava), folder, fs::copy_options::recursive);
  const auto spoil = [&](const std::string& name, float by) {
    auto tensors = read_tensors(folder + "/expected.safetensors");
    float value = 0;
    std::memcpy(&value, tensors.at(name).bytes.data() + 40, sizeof value);
    value += by;
    std::memcpy(tensors.at(name).bytes.data() + 40, &value, sizeof value);
    write_tensors(folder + "/expected.safetensors", tensors);
  };
  spoil("one.lm.hidden.2", 0.5f);
  spoil("one.projector", 0.5f);
  const ordered_json found = inspect_json(folder + " --compare " + folder + "/expected.safetensors");
  INFO(found.dump());
  CHECK(found["ok"] == false);
  CHECK(found["first_deviation"] == "one.projector");
  CHECK(inspect(folder + " --compare " + folder).status == 1);
  CHECK(inspect(folder + " --compare " + folder).says("The first stage that deviates is one.projector."));
  CHECK(inspect(folder + " --compare " + folder + " --tolerance 1").status == 0);

  // The model itself differs: nothing before the changed layer deviates.
  fs::remove_all(folder);
  fs::copy(test_data("cases/" + llama), folder, fs::copy_options::recursive);
  auto weights = read_tensors(folder + "/model/model.safetensors");
  std::string& bytes = weights.at("model.layers.1.mlp.down_proj.weight").bytes;
  std::fill(bytes.begin(), bytes.end(), '\0');
  write_tensors(folder + "/model/model.safetensors", weights);
  const ordered_json changed = inspect_json(folder + " --compare " + folder);
  INFO(changed.dump());
  CHECK(changed["first_deviation"] == "p0.lm.hidden.2");
}

TEST_CASE("without a case.json, the options say what was asked") {
  const std::string folder = test_data("cases/" + llama), expected = folder + "/expected.safetensors";
  const Scratch scratch;
  fs::copy(expected, scratch / "expected.safetensors");
  const ordered_json input = ordered_json::parse(read_text(folder + "/case.json"))["inputs"][1];
  write_text(scratch / "prompt", input["prompt"].get<std::string>());
  const Answer none = inspect(folder + "/model --compare " + (scratch / "expected.safetensors"));
  CHECK(none.status == 1);
  CHECK(none.says("give --prompt"));
  const Answer asked =
      inspect(folder + "/model --compare " + (scratch / "expected.safetensors") + " --prompt \"$(cat " + (scratch / "prompt") + ")\"");
  INFO(asked.text);
  CHECK(asked.status == 0);
  CHECK(asked.says(input["name"].get<std::string>() + ".logits"));
}

TEST_CASE("everything that is wrong is said at once") {
  const Scratch scratch;
  const std::string folder = scratch.copy(llava);
  auto tensors = read_tensors(folder + "/model.safetensors");
  tensors.erase("model.multi_modal_projector.linear_1.bias");
  tensors["model.left_over"] = {"F32", std::string(8, '\0'), {2}};
  Stored& wide = tensors.at("model.language_model.layers.0.mlp.up_proj.weight");
  std::swap(wide.shape[0], wide.shape[1]);
  write_tensors(folder + "/model.safetensors", tensors);
  write_text(folder + "/tokenizer.json", read_text(folder + "/tokenizer.json").substr(0, 3000));
  write_text(folder + "/generation_config.json", "{\"num_beams\": \"three\"}");
  fs::remove(folder + "/preprocessor_config.json");
  write_text(folder + "/chat_template.jinja", "{% for m in messages %}{{ m }}");
  const Answer answer = inspect(folder);
  INFO(answer.text);
  CHECK(answer.status == 1);
  for (const char* const words : {"'multi_modal_projector.linear_1.bias' is missing", "'model.left_over' is not used",
                                  "'model.language_model.layers.0.mlp.up_proj.weight' is bf16", "tokenizer.json:", "generation_config.json:",
                                  "preprocessor_config.json: not there", "chat_template.jinja:", "It cannot be loaded: 7 errors."})
    CHECK(answer.says(words));
}

TEST_CASE("weights that are not there") {
  const Scratch scratch;
  SECTION("a shard is missing") {
    const std::string folder = scratch.copy(llama);
    auto tensors = read_tensors(folder + "/model.safetensors");
    fs::remove(folder + "/model.safetensors");
    std::map<std::string, Stored> first;
    ordered_json index = {{"weight_map", ordered_json::object()}};
    for (const auto& [name, tensor] : tensors) {
      const bool second = name.find("layers.1.") != std::string::npos;
      if (!second) first[name] = tensor;
      index["weight_map"][name] = second ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
    }
    write_tensors(folder + "/model-00001-of-00002.safetensors", first);
    write_text(folder + "/model.safetensors.index.json", index.dump());
    const Answer answer = inspect(folder);
    INFO(answer.text);
    CHECK(answer.status == 1);
    CHECK(answer.says("model-00002-of-00002.safetensors: is missing"));
    CHECK(answer.says("1 error."));
  }
  SECTION("cut short") {
    const std::string folder = scratch.copy(llama);
    fs::resize_file(folder + "/model.safetensors", 100'000);
    const Answer answer = inspect(folder);
    INFO(answer.text);
    CHECK(answer.status == 1);
    CHECK(answer.says("is cut short: 100 kB of"));
  }
  SECTION("a git-LFS pointer") {
    const std::string folder = scratch.copy(llama);
    write_text(
        folder + "/model.safetensors",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4938985352\n");
    const Answer answer = inspect(folder);
    INFO(answer.text);
    CHECK(answer.status == 1);
    CHECK(answer.says("git-LFS pointer"));
    CHECK(answer.says("of 4.9 GB"));
    CHECK(answer.says("git lfs pull"));
    CHECK(answer.says("1 error."));
  }
  SECTION("pickles and GGUF only") {
    const std::string folder = scratch.copy(llama);
    fs::rename(folder + "/model.safetensors", folder + "/pytorch_model.bin");
    CHECK(inspect(folder).status == 1);
    CHECK(inspect(folder).says("pytorch_model.bin: byte 0: no zip archive, which torch.save writes"));
    fs::rename(folder + "/pytorch_model.bin", folder + "/model.Q4_K_M.gguf");
    CHECK(inspect(folder).says("only as GGUF (model.Q4_K_M.gguf)"));
    fs::remove(folder + "/model.Q4_K_M.gguf");
    CHECK(inspect(folder).says("there are none: model.safetensors"));
  }
  SECTION("GGUF files") {
    const Answer whole = inspect(test_data("cases/gguf_llava15/model"));
    CHECK(whole.status == 0);
    CHECK(whole.says("llava (GGUF, architecture llama)"));
    CHECK(whole.says("padded to a square"));
    CHECK(inspect(test_data("cases/gguf_llama_k/model/tiny.gguf")).says("q3_k"));
    CHECK(inspect("--compare " + test_data("cases/gguf_qwen2")).status == 0);
    CHECK(inspect(test_data("gguf/iq2_xxs.gguf")).status == 1);
    CHECK(inspect(test_data("robust/gguf/cut_header.gguf")).says("the file ends inside the version"));
  }
  SECTION("values that are no numbers") {
    const std::string folder = scratch.copy(llama);
    auto tensors = read_tensors(folder + "/model.safetensors");
    std::memcpy(tensors.at("model.norm.weight").bytes.data(), "\0\0\xc0\x7f", 4);
    write_tensors(folder + "/model.safetensors", tensors);
    CHECK(inspect(folder).status == 0);
    CHECK(inspect("--values " + folder).status == 1);
    CHECK(inspect("--values " + folder).says("'model.norm.weight' holds 1 values that are infinite or no numbers"));
  }
}

TEST_CASE("BLIP-2 and InstructBLIP, and BLIP-2's first stage") {
  const ordered_json opt = inspect_json(test_data("cases/blip2_opt_small/model"));
  INFO(opt.dump());
  CHECK(opt["loads"] == true);
  CHECK(opt["vision"]["type"] == "blip_2_vision_model");
  CHECK(opt["qformer"]["queries"] == 7);
  CHECK(opt["qformer"]["reads_text"] == false);
  CHECK(opt["language"]["type"] == "opt");
  CHECK(opt["image_tokens"]["most"] == 7);
  CHECK(opt["example_prompt"] == "<image>What is this?");
  const ordered_json t5 = inspect_json(test_data("cases/blip2_flan_t5_small/model"));
  CHECK(t5["encoder"]["layers"] == 3);
  CHECK(t5["loads"] == true);
  const ordered_json instruct = inspect_json(test_data("cases/instructblip_llama_small/model"));
  CHECK(instruct["qformer"]["reads_text"] == true);
  CHECK(instruct["loads"] == true);
  const ordered_json retrieval = inspect_json(test_data("cases/blip2_itm_small/model"));
  INFO(retrieval.dump());
  CHECK(retrieval["loads"] == true);
  CHECK_FALSE(retrieval.contains("language"));
  for (const char* const name : {"blip2_opt_small", "blip2_itm_small"}) {
    const Answer answer = inspect("--compare " + test_data(std::string("cases/") + name) + " " + test_data(std::string("cases/") + name + "/model"));
    INFO(answer.text);
    CHECK(answer.status == 0);
  }
  const Scratch scratch;
  const std::string folder = scratch.copy("instructblip_llama_small");
  fs::remove_all(folder + "/qformer_tokenizer");
  CHECK(inspect(folder).status == 1);
  CHECK(inspect(folder).says("qformer_tokenizer"));
}

TEST_CASE("a folder of OpenFlamingo") {
  const Scratch scratch;
  const std::string folder = scratch.copy("of_mpt7b");
  const Answer answer = inspect(folder);
  INFO(answer.text);
  CHECK(answer.status == 0);
  CHECK(answer.says("64 latents a picture, seen before layer 3 and each 4 layers on"));
  CHECK(answer.says("mpt: 5 layers of width 32"));
  CHECK(answer.says("shorter side to 42"));
  fs::remove(folder + "/lm/model.safetensors");
  CHECK(inspect(folder).status == 1);
  CHECK(inspect(folder).says("no weights: looked for model.safetensors"));
}

TEST_CASE("a configuration that does not fit") {
  const Scratch scratch;
  const std::string folder = scratch.copy(llama);
  SECTION("an unknown family") {
    edit_json(folder + "/config.json", [](ordered_json& config) { config["model_type"] = "gpt_weird"; });
    const Answer answer = inspect(folder);
    INFO(answer.text);
    CHECK(answer.status == 1);
    CHECK(answer.says("model_type 'gpt_weird' is none of those that are supported: blip-2, instructblip, idefics, llava, llava_next, clip, siglip, t5, gpt_neox, llama, mistral, mosaic_gpt, mpt, opt, qwen2"));
  }
  SECTION("another width") {
    edit_json(folder + "/config.json", [](ordered_json& config) { config["intermediate_size"] = 99; });
    const Answer answer = inspect(folder);
    INFO(answer.text);
    CHECK(answer.status == 1);
    CHECK(
        answer.says("2 tensors 'model.layers.N.mlp.gate_proj.weight', such as 'model.layers.0.mlp.gate_proj.weight', are f32 (50, 24), config.json "
                    "asks for (99, 24)"));
  }
  SECTION("a value that makes no sense") {
    edit_json(folder + "/config.json", [](ordered_json& config) { config["num_hidden_layers"] = -3; });
    CHECK(inspect(folder).status == 1);
    CHECK(inspect(folder).says("config.json: /num_hidden_layers: is -3"));
  }
  SECTION("quantised") {
    edit_json(folder + "/config.json", [](ordered_json& config) { config["quantization_config"] = {{"quant_method", "awq"}}; });
    CHECK(inspect(folder).says("the weights are quantised (awq)"));
  }
  SECTION("no tokenizer") {
    for (const char* const file : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}) fs::remove(folder + "/" + file);
    CHECK(inspect(folder).status == 1);
    CHECK(inspect(folder).says("tokenizer.json: not there"));
  }
  SECTION("a tokenizer with more tokens than the model has embeddings for is no error") {
    edit_json(folder + "/config.json", [](ordered_json& config) { config["vocab_size"] = 100; });
    CHECK(inspect(folder).says("for which the model has no embedding"));
  }
}

TEST_CASE("folders that are no checkpoint") {
  const Scratch scratch;
  CHECK(inspect(scratch / "nowhere").status == 1);
  CHECK(inspect(scratch / "nowhere").says("there is no such folder"));
  const std::string folder = scratch.copy(llama, "hub/snapshots/abc");
  CHECK(inspect(scratch / "hub").status == 1);
  CHECK(inspect(scratch / "hub").says("Is it one of these folders? " + folder));
  CHECK(inspect(folder + "/config.json").says("give the folder that holds it"));
  write_text(scratch / "lora/adapter_config.json", "{}");
  CHECK(inspect(scratch / "lora").says("an adapter (LoRA)"));
  write_text(scratch / "page/config.json", "<!DOCTYPE html><html>");
  CHECK(inspect(scratch / "page").says("config.json: is a web page"));
  fs::create_directories(scratch / "empty");
  CHECK(inspect(scratch / "empty").says("The folder is empty"));
  CHECK(inspect("").status != 0);
}
