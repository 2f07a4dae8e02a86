// A second question about a picture: CLIP's ViT-L/14-336 as LLaVA-1.5 uses it before the 1.1B Llama, weights in bf16, random. Time from the
// prompt to the first token, of the first question about a picture and of the next one (in one conversation, and as a call of its own).
#include "checkpoint_folder.hpp"
#include "measure.hpp"
#include "shapes.hpp"
#include "support/paths.hpp"

#include <chiasm/pipelines/conversation.hpp>

namespace {

using namespace chiasm;

const Pipeline& llava(Compute compute) {
  static const CheckpointFolder folder = [] {
    const VitConfig vision = shapes::vit_l_336();
    const DecoderConfig text = shapes::llama_1b();
    const auto below = [](const char* prefix) { return [=](std::string_view name) { return prefix + std::string(name); }; };
    const Weights weights = shapes::random_vit(vision, DType::bf16)
                                .renamed(below("vision_tower.vision_model."))
                                .merged(shapes::random_projector(vision.hidden_size, text.hidden_size, DType::bf16).renamed(below("multi_modal_projector.")))
                                .merged(random_decoder(text, DType::bf16, RandomWeights(1, shapes::period)).renamed(below("language_model.")));
    return CheckpointFolder(
        R"({"model_type": "llava", "image_token_index": 626, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
            "text_config": {"model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
                            "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": false},
            "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                              "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768}})",
        weights, source_dir() + "/examples/models/shapes-llava/tokenizer.json",
        {{"preprocessor_config.json",
          R"({"image_processor_type": "CLIPImageProcessor", "do_resize": true, "size": {"shortest_edge": 336}, "resample": 3, "do_center_crop": true,
              "crop_size": {"height": 336, "width": 336}, "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
              "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})"}});
  }();
  const auto open = [](Compute precision) {
    LoadOptions options;
    options.compute = precision;
    return load(folder.path(), std::move(options));
  };
  static const Pipeline f32 = open(Compute::f32), bf16 = open(Compute::bf16);
  return compute == Compute::f32 ? f32 : bf16;
}

/// Noise of 640 x 480; another one for each `seed`.
Image picture(unsigned seed) {
  Image image(640, 480);
  for (std::uint8_t& value : image.pixels()) value = static_cast<std::uint8_t>((seed = seed * 1664525u + 1013904223u) >> 24);
  return image;
}

constexpr const char* first_question = "What shape is the object closest to the red circle?";
constexpr const char* second_question = "How many large objects are in the picture?";

GenerateOptions one_token() {
  GenerateOptions options;
  options.max_new_tokens = 1;
  return options;
}

/// Mean time to the first token of the first and of the second question; the second as a share of the first in counter %first.
void ask_twice(benchmark::State& state, Compute compute, bool in_a_conversation) {
  const Pipeline& vlm = llava(compute);
  double first = 0, second = 0, preparing = 0, reading = 0;
  std::size_t reused = 0, prompt = 0;
  static unsigned seed = 1;  // no picture comes twice: the library would know it
  for (auto _ : state) {
    Context ctx = vlm.new_context();
    const Image image = picture(++seed);
    Conversation talk(vlm);
    const auto ask = [&](const Prompt& alone, const Prompt& turn) {
      const auto begin = std::chrono::steady_clock::now();
      const Reply reply = in_a_conversation ? talk.ask(ctx, turn, one_token()) : vlm.generate(ctx, alone, one_token());
      reused = reply.reused_tokens;
      prompt = reply.prompt_tokens;
      preparing = reply.prepare_seconds;
      reading = reply.times.prefill_seconds;
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    first += ask({image, first_question}, {image, first_question});
    const double next = ask({image, second_question}, {second_question});
    second += next;
    state.SetIterationTime(next);
  }
  const auto turns = static_cast<double>(state.iterations());
  state.counters["first_ms"] = 1e3 * first / turns;
  state.counters["%first"] = 100 * second / first;
  state.counters["prepare_ms"] = 1e3 * preparing;  // of the last question
  state.counters["prefill_ms"] = 1e3 * reading;
  state.counters["reused"] = static_cast<double>(reused);
  state.counters["prompt"] = static_cast<double>(prompt);
}

const bool registered = [] {
  for (const Compute compute : {Compute::f32, Compute::bf16})
    for (const bool in_a_conversation : {true, false}) {
      const std::string name = measure::label(in_a_conversation ? "ask_twice/conversation" : "ask_twice/calls", DType::bf16, compute);
      benchmark::RegisterBenchmark(name.c_str(), ask_twice, compute, in_a_conversation)->UseManualTime()->MinTime(0.5)->Unit(benchmark::kMillisecond);
    }
  return true;
}();

}  // namespace
