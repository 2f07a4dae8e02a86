/// Case: a folder with inputs, generations, and the tensors that a reference gave for them.
#pragma once

#include <chiasm/io/image_file.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/pipelines/generation.hpp>
#include <chiasm/pipelines/prompt.hpp>

#include <nlohmann/json.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace reference {

using nlohmann::ordered_json;

/// What to run, and what ought to come out.
struct Case {
  std::string folder;        // of the pictures
  std::string model;         // the checkpoint
  std::string expected;      // a safetensors file
  ordered_json description;  // case.json: family, inputs, runs
};

/// The tensors of a case's expected.safetensors. OpenFlamingo's pictures have six dimensions, of which the library knows five: the first two become one.
inline chiasm::Weights read_expected(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  auto bytes = std::make_shared<std::string>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  std::uint64_t length = 0;
  if (bytes->size() < sizeof length) return chiasm::read_safetensors(path);
  std::memcpy(&length, bytes->data(), sizeof length);
  if (length > bytes->size() - sizeof length) return chiasm::read_safetensors(path);
  ordered_json header = ordered_json::parse(bytes->substr(sizeof length, length), nullptr, false);
  if (!header.is_object()) return chiasm::read_safetensors(path);
  for (auto& [name, tensor] : header.items()) {
    if (!tensor.is_object() || !tensor.contains("shape") || tensor["shape"].size() != 6) continue;
    tensor["shape"][1] = tensor["shape"][0].get<std::uint64_t>() * tensor["shape"][1].get<std::uint64_t>();
    tensor["shape"].erase(0);
  }
  const std::string folded = header.dump();
  bytes->replace(sizeof length, length, folded);
  length = folded.size();
  std::memcpy(bytes->data(), &length, sizeof length);
  return chiasm::read_safetensors(std::as_bytes(std::span(bytes->data(), bytes->size())), path, bytes);
}

/// The case in a folder. Throws FileError, FormatError.
inline Case open_case(const std::string& folder) {
  std::ifstream file(folder + "/case.json");
  if (!file) throw chiasm::FileError(folder + "/case.json", "cannot be read");
  Case one{folder, {}, folder + "/expected.safetensors", {}};
  try {
    one.description = ordered_json::parse(file);
    one.model = (std::filesystem::path(folder) / one.description.value("model", "model")).string();
  } catch (const nlohmann::json::exception& error) {
    throw chiasm::FormatError(folder + "/case.json", 0, error.what());
  }
  return one;
}

inline chiasm::GenerateOptions options_of(const ordered_json& generate, const chiasm::GenerateOptions& config) {
  ordered_json known = generate;
  known.erase("eos_token_id");
  chiasm::GenerateOptions options = chiasm::GenerateOptions::from(chiasm::Json::parse(known.dump(), "case.json"));
  const ordered_json eos = generate.value("eos_token_id", ordered_json());
  if (eos.is_null()) options.eos_token_id = std::vector<chiasm::TokenId>();
  else if (eos.is_array()) options.eos_token_id = eos.get<std::vector<chiasm::TokenId>>();
  else if (eos.is_number_integer()) options.eos_token_id = {eos.get<chiasm::TokenId>()};
  else options.eos_token_id = config.eos_token_id;
  options.do_sample = false;
  return options;
}

/// A picture of a case, as its reference saw it.
inline chiasm::Image picture(const std::string& folder, const std::string& file, const std::string& family) {
  // The reference's own decoding of a JPEG lies beside it: the comparison is about the model.
  const std::filesystem::path original = std::filesystem::path(folder) / file;
  const std::string decoded = (file.ends_with(".jpg") ? original.string().substr(0, original.string().size() - 4) : original.string()) + ".decoded.png";
  // Most references handed the processor the file with its alpha, and present transformers lays that on white.
  const bool converted = family == "siglip" || family == "open_flamingo" || family == "idefics" || family == "kosmos2" || family == "paligemma" || family == "qwen2_vl";
  return chiasm::load_image(std::filesystem::exists(decoded) ? decoded : original.string(), converted ? chiasm::Alpha::drop : chiasm::Alpha::white);
}

/// The case's prompt, with its pictures where the placeholder stands.
inline chiasm::Prompt prompt_of(const std::string& folder, const ordered_json& input, const std::string& placeholder, const std::string& family) {
  chiasm::Prompt prompt;
  if (input.contains("prompt_parts")) {
    for (const ordered_json& part : input.at("prompt_parts")) {
      if (part.is_string()) prompt << part.get<std::string>();
      else prompt << picture(folder, part.at("image").get<std::string>(), family);
    }
    return prompt;
  }
  std::string text = input.at("prompt");
  if (family == "blip2" || family == "blip-2" || family == "instructblip") {  // their prompts are the text alone, and the picture stands before it
    for (const std::string& file : input.value("images", std::vector<std::string>())) prompt << picture(folder, file, family);
    return prompt << text;
  }
  for (const std::string& file : input.value("images", std::vector<std::string>())) {
    const std::size_t at = text.find(placeholder);
    if (placeholder.empty() || at == std::string::npos) throw chiasm::ArgumentError("more pictures than placeholders in the prompt");
    prompt << text.substr(0, at) << picture(folder, file, family);
    text.erase(0, at + placeholder.size());
  }
  prompt << text;
  return prompt;
}

}  // namespace reference
