/// CheckpointDescription: the parts of a model in words, each family with its own.
#pragma once

#include "weight_files.hpp"

#include <chiasm/models/blip2.hpp>
#include <chiasm/models/clip.hpp>
#include <chiasm/models/idefics.hpp>
#include <chiasm/models/llava.hpp>
#include <chiasm/models/t5.hpp>

#include <algorithm>
#include <optional>
#include <string>

namespace examples {

class CheckpointDescription : public CheckpointWeights {
 protected:
  using CheckpointWeights::CheckpointWeights;

  void describe(const chiasm::VitConfig& c, const std::string& type) {
    facts["vision"] = {{"type", type},
                       {"layers", c.num_hidden_layers},
                       {"width", c.hidden_size},
                       {"heads", c.num_attention_heads},
                       {"image_size", c.image_size},
                       {"patch_size", c.patch_size},
                       {"patches", c.grid() * c.grid()}};
    summary.emplace_back("vision", std::to_string(c.num_hidden_layers) + " layers of width " + std::to_string(c.hidden_size) + ", pictures of " +
                                       std::to_string(c.image_size) + " x " + std::to_string(c.image_size) + " in " +
                                       std::to_string(c.grid() * c.grid()) + " patches of " + std::to_string(c.patch_size) + " x " +
                                       std::to_string(c.patch_size) + (c.fused_qkv ? " (EVA-CLIP)" : c.class_token ? " (CLIP)" : " (SigLIP)"));
    vision_ = c;
  }
  void describe(const chiasm::TextTowerConfig& c) {
    facts["text"] = {{"layers", c.num_hidden_layers},
                     {"width", c.hidden_size},
                     {"heads", c.num_attention_heads},
                     {"vocabulary", c.vocab_size},
                     {"context_length", c.max_position_embeddings}};
    summary.emplace_back("text", std::to_string(c.num_hidden_layers) + " layers of width " + std::to_string(c.hidden_size) + ", vocabulary of " +
                                     std::to_string(c.vocab_size) + ", texts of at most " + std::to_string(c.max_position_embeddings) + " tokens");
    vocabulary_ = c.vocab_size;
  }
  void describe(const chiasm::LanguageModel& model) {
    vocabulary_ = model.vocab_size();
    facts["language"] = {{"vocabulary", model.vocab_size()}, {"width", model.hidden_size()}};
    const auto* const decoder = dynamic_cast<const chiasm::DecoderStack*>(&model);
    if (decoder == nullptr) return;
    const chiasm::DecoderSizes& c = decoder->sizes();
    const chiasm::Json text = config_.find("text_config");
    const std::string type = (text.is_object() ? text : config_).get<std::string>("model_type", "llama");
    context_ = c.context_length;
    cache_ = c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 2 * sizeof(float);
    facts["language"] = {{"type", type},
                         {"layers", c.num_hidden_layers},
                         {"width", c.hidden_size},
                         {"heads", c.num_attention_heads},
                         {"key_value_heads", c.num_key_value_heads},
                         {"head_dim", c.head_dim},
                         {"vocabulary", c.vocab_size},
                         {"context_length", context_}};
    std::string words = type + ": " + std::to_string(c.num_hidden_layers) + " layers of width " + std::to_string(c.hidden_size) + ", " +
                        std::to_string(c.num_attention_heads) + " heads";
    if (c.num_key_value_heads != c.num_attention_heads) words += " (" + std::to_string(c.num_key_value_heads) + " of keys and values)";
    words += ", vocabulary of " + std::to_string(c.vocab_size);
    summary.emplace_back("language", words);
    std::string length = std::to_string(context_) + " tokens";
    const auto* const windowed = dynamic_cast<const chiasm::Decoder*>(&model);
    const std::size_t window = windowed == nullptr || windowed->config().windows.empty()
                                   ? 0
                                   : *std::max_element(windowed->config().windows.begin(), windowed->config().windows.end());
    if (window > 0 && window < context_) {
      length += ", of which a layer sees the last " + std::to_string(window);
      facts["language"]["sliding_window"] = window;
    }
    summary.emplace_back("context", length);
  }
  void describe(const chiasm::T5& model) {
    const chiasm::T5Config& c = model.config();
    facts["encoder"] = {{"layers", c.num_layers}, {"width", c.d_model}, {"heads", c.num_heads}};
    summary.emplace_back("encoder", std::to_string(c.num_layers) + " layers of width " + std::to_string(c.d_model) + ", " + std::to_string(c.num_heads) + " heads");
    describe(model.decoder());
  }
  void describe(const chiasm::Blip2Config& c) {
    describe(c.vision, c.instruct ? "instructblip_vision_model" : "blip_2_vision_model");
    const chiasm::QFormerConfig& q = c.qformer;
    const bool reads_text = c.instruct || is_retrieval();
    facts["qformer"] = {{"queries", q.num_query_tokens}, {"layers", q.num_hidden_layers}, {"width", q.hidden_size}, {"heads", q.num_attention_heads},
                        {"cross_attention_frequency", q.cross_attention_frequency}, {"reads_text", reads_text}};
    summary.emplace_back("Q-Former", std::to_string(q.num_query_tokens) + " queries, " + std::to_string(q.num_hidden_layers) + " layers of width " +
                                         std::to_string(q.hidden_size) + ", " + std::to_string(q.num_attention_heads) + " heads" +
                                         (c.instruct ? "; reads the instruction, too" : reads_text ? "; reads texts, too" : ""));
    view_tokens_ = is_retrieval() ? 0 : q.num_query_tokens;
  }
  void describe(const chiasm::Llava& model) {
    const chiasm::LlavaConfig& c = model.config();
    describe(c.vision, c.vision.class_token ? "clip_vision_model" : "siglip_vision_model");
    describe(model.language_model());
    image_token_ = c.image_token_index;
    anyres_ = c.anyres;
    view_tokens_ = c.vision.grid() * c.vision.grid() + c.vision.class_token - (c.vision_feature_select_strategy == chiasm::FeatureStrategy::patches);
  }
  void describe(const chiasm::Idefics& model) {
    const chiasm::IdeficsConfig& c = model.config();
    describe(c.vision, "idefics_vision");
    describe(model.llama());
    vocabulary_ = model.language_model().vocab_size();  // with the additional tokens
    facts["language"]["vocabulary"] = vocabulary_;
    facts["connector"] = {{"resampler", c.use_resampler}, {"interval", c.cross_layer_interval}, {"qk_layer_norms", c.qk_layer_norms}};
    if (c.use_resampler) facts["connector"]["latents"] = c.perceiver.latents;
    summary.emplace_back("connector", (c.use_resampler ? std::to_string(c.perceiver.latents) + " latents a picture" : std::string("the tower's states")) + ", seen before " +
                                          (c.cross_layer_interval == 1 ? std::string("every layer") : "layer 0 and each " + std::to_string(c.cross_layer_interval) + " layers on"));
  }

  std::optional<chiasm::VitConfig> vision_;
  std::optional<chiasm::TokenId> image_token_;
  bool anyres_ = false;
  std::size_t vocabulary_ = 0, context_ = 0, cache_ = 0, view_tokens_ = 0;  // cache_: bytes of keys and values per token
};

}  // namespace examples
