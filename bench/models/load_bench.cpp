// From a folder to a pipeline, and on to the first token, with files that the system has read before. The bundled models, and six layers
// of the 1.1B Llama in bf16 (790 MB).
#include "checkpoint_folder.hpp"
#include "measure.hpp"
#include "shapes.hpp"
#include "support/paths.hpp"

#include <chiasm/io/image_file.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <filesystem>

namespace {

using namespace chiasm;

std::string models() { return source_dir() + "/examples/models/"; }

std::string llama_folder() {
  static const CheckpointFolder folder(
      R"({"model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 6,
          "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": false})",
      random_decoder(shapes::llama_1b(6), DType::bf16, RandomWeights(1, shapes::period)), models() + "stories260k/tokenizer.json");
  return folder.path();
}

void open(benchmark::State& state, std::string (*folder)()) {
  const std::string path = folder();
  for (auto _ : state) benchmark::DoNotOptimize(&load(path).language_model());
}

void first_token(benchmark::State& state, std::string (*folder)()) {
  const std::string path = folder();
  GenerateOptions options;
  options.max_new_tokens = 1;
  for (auto _ : state) benchmark::DoNotOptimize(load(path).complete("Once upon a time", options).data());
}

void first_answer(benchmark::State& state, std::string (*folder)()) {
  const std::string path = folder();
  GenerateOptions options;
  options.max_new_tokens = 1;
  for (auto _ : state) {
    const Image image = load_image(source_dir() + "/examples/pictures/shapes-03.png");
    benchmark::DoNotOptimize(load(path).answer(image, "How many objects are there?", options).data());
  }
}

const bool registered = [] {
  const auto add = [](const char* name, auto run, std::string (*folder)()) {
    benchmark::RegisterBenchmark(name, run, folder)->UseRealTime()->MinTime(0.5)->Unit(benchmark::kMillisecond);
  };
  const auto stories = [] { return models() + "stories260k"; };
  const auto pictures = [] { return models() + "shapes-llava"; };
  if (std::filesystem::exists(stories())) {
    add("load/stories260k", open, stories);
    add("load/stories260k/first_token", first_token, stories);
    add("load/llama_1b_6_layers", open, llama_folder);
    add("load/llama_1b_6_layers/first_token", first_token, llama_folder);
  }
  if (std::filesystem::exists(pictures())) {
    add("load/shapes-llava", open, pictures);
    add("load/shapes-llava/first_token", first_answer, pictures);
  }
  return true;
}();

}  // namespace
