/// CheckpointLanguage: tokenizer, chat template and the defaults of generation.
#pragma once

#include "wiring.hpp"

#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/pipelines/generation.hpp>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace examples {

class CheckpointLanguage : public CheckpointWiring {
 protected:
  using CheckpointWiring::CheckpointWiring;

  void read_tokenizer() {
    const std::size_t before = findings.size();
    std::string kind, source;
    for (const char* const file : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model",
                                   "vocab.json", "vocab.txt", "qwen.tiktoken", "tiktoken.model"})
      if (source.empty() && has(file)) source = file;
    if (source.empty()) {
      error("tokenizer.json", "not there, nor another tokenizer's file: download tokenizer.json of the same repository");
      return;
    }
    std::optional<chiasm::Tokenizer> tokens;
    for (const char* const file : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
      if (broken_.contains(file)) return;  // said already
    (void)try_to(source, [&] { tokens = chiasm::Tokenizer::load(*checkpoint_); });
    if (!tokens) return;
    const auto type_of = [](const chiasm::Json& part) {
      return part.find("type").is_string() ? std::string(part.find("type").as_string()) : std::string();
    };
    if (source == "tokenizer.json") {
      const chiasm::Json file = checkpoint_->json(source);
      kind = type_of(file.find("model"));
      if (kind.empty()) kind = file.find("model").contains("merges") ? "BPE" : "WordPiece";
    } else {
      kind = source.ends_with(".model") ? "SentencePiece" : source == "vocab.txt" ? "WordPiece" : source.ends_with(".tiktoken") ? "tiktoken" : "BPE";
    }
    std::size_t special = 0;
    for (chiasm::TokenId id = 0; id < static_cast<chiasm::TokenId>(tokens->size()); ++id) special += tokens->is_special(id);
    facts["tokenizer"] = {{"file", source}, {"kind", kind}, {"size", tokens->size()}, {"special_tokens", special}};
    std::string words = kind + " from " + source + ", " + std::to_string(tokens->size()) + " tokens, " + std::to_string(special) + " of them special";
    for (const auto& [name, id] :
         {std::pair("bos", tokens->bos()), std::pair("eos", tokens->eos()), std::pair("pad", tokens->pad()), std::pair("unk", tokens->unk())}) {
      facts["tokenizer"][name] = id ? ordered_json(*id) : ordered_json();
      if (id) words += std::string("; ") + name + " " + std::string(tokens->token(*id)) + " (" + std::to_string(*id) + ")";
    }
    const chiasm::Json settings = checkpoint_->tokenizer_config();
    if (const chiasm::Json name = settings.find("tokenizer_class"); name.is_string()) facts["tokenizer"]["class"] = std::string(name.as_string());
    summary.emplace_back("tokenizer", words);

    std::size_t beyond = 0;
    chiasm::TokenId last = 0;
    for (chiasm::TokenId id = static_cast<chiasm::TokenId>(vocabulary_);
         vocabulary_ > 0 && id < static_cast<chiasm::TokenId>(std::max(vocabulary_, tokens->size()) + 1000); ++id)
      if (!tokens->token(id).empty() && id != image_token_) ++beyond, last = id;
    if (beyond > 0)
      note(source, std::to_string(beyond) + " tokens have ids from " + std::to_string(vocabulary_) + " on, up to " + std::to_string(last) +
                       ", for which the model has no embedding: a text with one of them is refused");
    if (image_token_ && tokens->token(*image_token_).empty())
      error("config.json", "the picture's placeholder is token " + std::to_string(*image_token_) +
                               " (image_token_index), which the tokenizer does not have: tokenizer and config.json are not of one model");
    else if (image_token_) {
      const std::vector<chiasm::TokenId> ids = tokens->encode(tokens->token(*image_token_), false);
      if (ids != std::vector<chiasm::TokenId>{*image_token_})
        error(source, "reads the picture's placeholder '" + std::string(tokens->token(*image_token_)) + "' as " + std::to_string(ids.size()) +
                          " tokens: it must be an added token");
    }
    has_eos_ = tokens->eos().has_value();
    if (findings.size() == before) tokenizer_ = std::move(tokens);
  }

  void read_chat_template() {
    if (!generates()) return;
    std::string file = "chat template";
    for (const char* const name : {"processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"}) {
      if (broken_.contains(name)) return;  // said already
      const bool holds = std::string_view(name).ends_with(".jinja") ? has(name) : has(name) && checkpoint_->json(name).contains("chat_template");
      if (holds && file == "chat template") file = name;
    }
    (void)try_to(file, [&] {
      const std::optional<chiasm::ChatTemplate> found = chiasm::ChatTemplate::find(*checkpoint_);
      facts["chat_template"] = {{"from", found ? ordered_json(file) : ordered_json()}};
      if (!found) {
        summary.emplace_back("chat template",
                             image_token_ ? "none; LLaVA 1.5's USER/ASSISTANT turns are used"
                             : is_idefics() && tokenizer_ && tokenizer_->id("<end_of_utterance>") ? "none; User/Assistant turns that end with <end_of_utterance> are used"
                                                                                                  : "none: a prompt is read as it stands");
        return;
      }
      const bool parts = found->content_form() == chiasm::ContentForm::parts;
      facts["chat_template"]["content"] = parts ? "parts" : "text";
      summary.emplace_back("chat template", "from " + file + (parts ? "; takes a list of texts and pictures" : "; takes plain text"));
    });
  }

  void read_generation_config() {
    if (!generates()) return;
    const std::string file = "generation_config.json";
    if (broken_.contains(file)) return;
    chiasm::GenerateOptions options;
    const chiasm::Json json = checkpoint_->generation_config();
    if (!json.is_null() && !try_to(file, [&] { options = chiasm::GenerateOptions::from(json); })) return;
    std::string words;
    const auto say = [&](const std::string& what) { words += (words.empty() ? "" : ", ") + what; };
    if (options.do_sample.value_or(false)) say("samples");
    if (options.num_beams.value_or(1) > 1) say(std::to_string(*options.num_beams) + " beams");
    const auto number = [](double value) {
      char text[40];
      std::snprintf(text, sizeof text, "%g", value);
      return std::string(text);
    };
    if (options.temperature) say("temperature " + number(*options.temperature));
    if (options.top_k) say("top_k " + std::to_string(*options.top_k));
    if (options.top_p) say("top_p " + number(*options.top_p));
    if (options.repetition_penalty) say("repetition_penalty " + number(*options.repetition_penalty));
    if (options.max_new_tokens)
      say("at most " + std::to_string(*options.max_new_tokens) + " new tokens");
    else if (options.max_length)
      say("at most " + std::to_string(*options.max_length) + " tokens in all");
    std::vector<chiasm::TokenId> ends = options.eos_token_id.value_or(std::vector<chiasm::TokenId>());
    if (!ends.empty()) {
      std::vector<std::string> names;
      for (const chiasm::TokenId id : ends)
        names.push_back(std::to_string(id) +
                        (tokenizer_ && !tokenizer_->token(id).empty() ? " " + std::string(tokenizer_->token(id)) : std::string()));
      say("ends at " + list_text(names));
    }
    facts["generation_config"] = {{"there", !json.is_null()}, {"do_sample", options.do_sample.value_or(false)}, {"eos_token_id", ends}};
    if (!json.is_null()) summary.emplace_back("generation", words.empty() ? "greedy" : words);
    const bool in_config = !config_.find("eos_token_id").is_null() || !config_.find("text_config").find("eos_token_id").is_null();
    if (ends.empty() && !has_eos_ && !(json.is_null() && in_config))
      note(json.is_null() ? "config.json" : file, "no end token is named, there or in the tokenizer: an answer ends at its longest length only");
  }

 private:
  bool generates() const { return is_llava() || is_idefics() || (is_blip2() && !is_retrieval()) || chiasm::is_text_model(type_) || type_ == "t5"; }

  std::optional<chiasm::Tokenizer> tokenizer_;
  bool has_eos_ = false;
};

}  // namespace examples
