/// What is in a checkpoint folder, and everything that keeps it from being loaded, in words that a person can act on. Of weights, only
/// the headers are read.
#pragma once

#include "checkpoint/pictures.hpp"

#include <chiasm/chiasm.hpp>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace examples {

/// The classes below it, in checkpoint/, are what it looks at, one after the other; each knows what those before it have found.
class CheckpointReport : public CheckpointPictures {
 public:
  /// With `read_weights`, all values are looked at, too: not-a-numbers, infinities, tensors of nothing but zeros.
  explicit CheckpointReport(std::string folder, bool read_weights = false) : CheckpointPictures(std::move(folder)), read_weights_(read_weights) {
    const bool there = look_at_folder();
    if (there && has("flamingo_config.json")) {
      look_at_flamingo();
    } else if (there && gguf_) {
      look_at_gguf();
    } else if (there && read_config()) {
      read_weight_files();
      wire();
      read_tokenizer();
      read_image_processor();
      read_chat_template();
      read_generation_config();
      count_memory();
      if (loads()) load();
    }
    facts["loads"] = loads();
    facts["findings"] = ordered_json::array();
    for (const Finding& finding : findings)
      facts["findings"].push_back({{"severity", finding.fatal ? "error" : "note"}, {"where", finding.where}, {"what", finding.what}});
  }

 private:
  void look_at_flamingo() {
    type_ = "open_flamingo";
    facts["model_type"] = type_;
    summary.emplace_back("model", type_);
    checkpoint_ = chiasm::Checkpoint::open(folder_);
    std::optional<chiasm::FlamingoParts> parts;
    if (!try_to("flamingo_config.json", [&] { parts = chiasm::FlamingoParts::open(*checkpoint_); })) return;
    const chiasm::FlamingoFiles& files = parts->files;
    std::vector<chiasm::WeightError> wrong;
    (void)try_to(files.checkpoint, [&] {
      const bool safetensors = files.checkpoint.ends_with(".safetensors");
      const chiasm::Weights trained(safetensors ? chiasm::Safetensors::parse(parts->checkpoint).tensors : chiasm::TorchPickle::parse(parts->checkpoint).tensors,
                                    path(files.checkpoint));
      const chiasm::ClipVision vision = chiasm::ClipVision::open(parts->vision, files.vision_quick_gelu);
      const chiasm::Weights base = parts->language_model.weights();
      config_ = parts->language_model.config();
      for (const chiasm::Weights& tree : {trained, base, vision.weights}) {
        const chiasm::Weights noted = tree.noting(wrong);
        weight_files_.push_back({{"name", tree.source()}, {"bytes", tree.bytes()}, {"tensors", tree.names().size()}});
        for (const std::string& name : tree.names()) tensors_.push_back(noted.get(name));
      }
      image_token_ = parts->tokenizer.id(files.media_token);
      const chiasm::OpenFlamingo model(trained.noting(wrong), base.noting(wrong), config_, vision.weights.noting(wrong),
                                       {vision.config, files.vision_tokens_ln_post, files.only_attend_immediate_media, files.cross_attn_every_n_layers, *image_token_});
      describe(vision.config, "clip_vision_model");
      summary.emplace_back("pictures", in_words(vision.image_transform) + " (open_clip)");
      facts["connector"] = {{"latents", model.perceiver().config().latents}, {"first_layer", model.gated_layers().first}, {"interval", model.gated_layers().interval}};
      summary.emplace_back("connector", std::to_string(model.perceiver().config().latents) + " latents a picture, seen before layer " +
                                            std::to_string(model.gated_layers().first) + " and each " + std::to_string(model.gated_layers().interval) + " layers on");
      describe(model.language_model().inner());
      count_parameters(chiasm::OpenFlamingo::normalise(trained, base, config_).merged(vision.weights.renamed([](std::string_view name) {
        return "vision_encoder." + std::string(name);
      })));
      facts["tokenizer"] = {{"size", parts->tokenizer.size()}};
      summary.emplace_back("tokenizer", std::to_string(parts->tokenizer.size()) + " tokens");
    });
    report(wrong);
    count_weights();
    count_memory();
    if (loads()) load();
  }

  /// A GGUF file, those that belong to it, and what they are in transformers' words.
  void look_at_gguf() {
    (void)try_to(folder_, [&] {
      checkpoint_ = chiasm::Checkpoint::open(folder_);
      const chiasm::GgufModel& files = *checkpoint_->gguf();
      config_ = checkpoint_->config();
      type_ = checkpoint_->model_type();
      facts["model_type"] = type_;
      summary.emplace_back("model", type_ + " (GGUF, architecture " + std::string(files.text["general.architecture"].as_string()) + ")");
      std::vector<const chiasm::Gguf*> all = {&files.text};
      for (const chiasm::Gguf& shard : files.shards) all.push_back(&shard);
      if (files.mmproj) all.push_back(&*files.mmproj);
      for (const chiasm::Gguf* const file : all) {
        weight_files_.push_back({{"name", std::filesystem::path(file->file()).filename().string()},
                                 {"bytes", std::filesystem::file_size(file->file())},
                                 {"tensors", file->tensors().size()}});
        tensors_.insert(tensors_.end(), file->tensors().begin(), file->tensors().end());
      }
      count_weights();
      std::vector<chiasm::WeightError> wrong;
      const chiasm::Weights w = checkpoint_->weights().noting(wrong);
      if (is_llava()) {
        describe(chiasm::Llava(w, config_));
      } else {
        const std::unique_ptr<chiasm::LanguageModel> model = chiasm::make_text_model(w, config_);
        w.expect_all_used();
        describe(*model);
      }
      report(wrong);
      count_parameters(checkpoint_->weights());
      const chiasm::Tokenizer tokenizer = chiasm::Tokenizer::load(*checkpoint_);
      facts["tokenizer"] = {{"size", tokenizer.size()}};
      summary.emplace_back("tokenizer", std::to_string(tokenizer.size()) + " tokens");
      if (is_llava()) summary.emplace_back("pictures", in_words(chiasm::ImageProcessorConfig::from(checkpoint_->preprocessor_config())));
    });
    count_memory();
    if (loads()) load();
  }

  void count_memory() {
    if (tensors_.empty()) return;
    std::uint64_t mapped = 0, copied = 0, as_f32 = 0, as_bf16 = 0;
    for (const chiasm::Weight& weight : tensors_) {
      const std::uint64_t elements = weight.shape().size();
      const bool matrix = weight.shape().rank() >= 2, kernel = static_cast<std::size_t>(weight.dtype()) < chiasm::weight_kinds;
      mapped += matrix && kernel ? weight.bytes() : 0;
      copied += matrix && kernel ? 0 : elements * sizeof(float);
      as_f32 += weight.dtype() == chiasm::DType::f32 && matrix ? 0 : elements * sizeof(float);
      as_bf16 += !matrix ? elements * sizeof(float) : weight.dtype() == chiasm::DType::bf16 ? 0 : elements * 2;
    }
    facts["memory"] = {
        {"mapped_bytes", mapped}, {"copied_bytes", copied}, {"copied_bytes_weights_f32", as_f32}, {"copied_bytes_weights_bf16", as_bf16}};
    std::string words = bytes_text(mapped) + " of weights mapped from the files, " + bytes_text(copied) + " copied; " + bytes_text(as_f32) +
                        " copied with --weights f32, " + bytes_text(as_bf16) + " with bf16";
    if (cache_ > 0) {
      facts["memory"]["kv_cache_bytes_per_1000_tokens"] = cache_ * 1000;
      words += "; keys and values " + bytes_text(static_cast<std::uint64_t>(cache_ * 1000)) + " per 1,000 tokens";
      if (context_ > 0) words += ", " + bytes_text(static_cast<std::uint64_t>(cache_ * context_)) + " for the whole context";
    }
    summary.emplace_back("memory", words);
    if (!read_weights_) return;
    std::size_t looked_at = 0;
    for (const chiasm::Weight& weight : tensors_) {
      if (weight.shape().size() == 0 || weight.dtype() >= chiasm::DType::i8) continue;
      ++looked_at;
      look_at_values(weight);
    }
    summary.emplace_back("values", "of " + std::to_string(looked_at) + " tensors read");
  }

  void load() {
    try {
      if (type_ == "clip" || type_ == "siglip" || is_retrieval()) {
        (void)chiasm::DualEncoder::load(*checkpoint_);
      } else {
        const chiasm::Pipeline pipeline = chiasm::load(*checkpoint_);
        const chiasm::Message question{"user", image_token_ || is_blip2() || is_idefics() ? chiasm::Prompt{chiasm::Image(8, 8), "What is this?"} : chiasm::Prompt{"What is this?"}};
        try {
          const std::string prompt = pipeline.render(std::span<const chiasm::Message>(&question, 1));
          facts["example_prompt"] = prompt;
          summary.emplace_back("a question is", ordered_json(prompt).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
        } catch (const chiasm::Error& e) {
          error("chat template", std::string("fails on a plain question: ") + e.what());
        }
      }
    } catch (const chiasm::Error& e) {
      error(folder_, e.what());
    }
  }

  bool read_weights_;
};

}  // namespace examples
