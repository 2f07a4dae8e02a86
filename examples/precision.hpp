/// Precision: what a model's states and choices become with other weights or in another arithmetic, held against f32.
#pragma once

#include "reference/case.hpp"

#include <chiasm/pipelines/dual_encoder.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace precision {

using nlohmann::ordered_json;

struct Mode {
  const char* name;
  chiasm::WeightKind weights;
  chiasm::Compute compute;
  chiasm::KvKind kv = chiasm::KvKind::automatic;
};
inline constexpr Mode exact = {"f32", chiasm::WeightKind::f32, chiasm::Compute::f32};
inline constexpr Mode modes[] = {{"bf16", chiasm::WeightKind::bf16, chiasm::Compute::f32}, {"bf16, compute bf16", chiasm::WeightKind::bf16, chiasm::Compute::bf16},
                                 {"q8", chiasm::WeightKind::q8, chiasm::Compute::f32},     {"q8, compute bf16", chiasm::WeightKind::q8, chiasm::Compute::bf16},
                                 {"q4", chiasm::WeightKind::q4, chiasm::Compute::f32},     {"q4, compute bf16", chiasm::WeightKind::q4, chiasm::Compute::bf16},
                                 {"i8", chiasm::WeightKind::i8, chiasm::Compute::f32},     {"i8, compute i8", chiasm::WeightKind::i8, chiasm::Compute::i8},
                                 {"f32, kv bf16", chiasm::WeightKind::f32, chiasm::Compute::f32, chiasm::KvKind::bf16},
                                 {"f32, kv q8", chiasm::WeightKind::f32, chiasm::Compute::f32, chiasm::KvKind::q8}};

/// A model and what it is shown.
struct Subject {
  std::string name, model;
  std::vector<chiasm::Prompt> prompts;     // of one that generates
  bool turns = false;                      // they are what a user says, not what the model reads
  std::vector<chiasm::Image> images = {};  // of an encoder of images and texts
  std::vector<std::string> texts = {};
};

/// Rows of states that are compared one by one, and the likeliest token after each.
struct Seen {
  std::size_t width = 0;
  std::vector<float> states;
  std::vector<std::size_t> tokens;
  std::vector<double> leads;  // of each token's score before the next best, in standard deviations of all scores

  void choose(const chiasm::Tensor& logits) {
    for (std::size_t t = 0; t < logits.rows(); ++t) {
      const float* const scores = logits.row(t);
      const std::size_t count = logits.columns(), best = static_cast<std::size_t>(std::max_element(scores, scores + count) - scores);
      double sum = 0, squares = 0, second = -1e300;
      for (std::size_t i = 0; i < count; ++i) {
        const double score = static_cast<double>(scores[i]);
        sum += score, squares += score * score;
        if (i != best) second = std::max(second, score);
      }
      const double mean = sum / static_cast<double>(count), spread = std::sqrt(std::max(squares / static_cast<double>(count) - mean * mean, 1e-30));
      tokens.push_back(best);
      leads.push_back((static_cast<double>(scores[best]) - second) / spread);
    }
  }
};

/// The final hidden states of each prompt and of the tokens that follow it, in f32's choice: `follow[i]` after prompt i, made here where it is not there yet.
inline Seen look(const Subject& subject, const Mode& mode, std::vector<std::vector<chiasm::TokenId>>& follow, std::size_t steps = 16) {
  chiasm::LoadOptions loading;
  loading.weights = mode.weights;
  loading.compute = mode.compute;
  loading.kv = mode.kv;
  Seen seen;
  const auto take = [&](const chiasm::Tensor& states) {
    seen.width = states.columns();
    seen.states.insert(seen.states.end(), states.data(), states.data() + states.size());
  };
  if (!subject.images.empty()) {
    const chiasm::DualEncoder encoder = chiasm::DualEncoder::load(subject.model, loading);
    chiasm::Context ctx = encoder.new_context();
    // The nearest text to each picture is its choice.
    const chiasm::Tensor images = encoder.embed(ctx, subject.images), texts = encoder.embed(ctx, std::span<const std::string>(subject.texts));
    const chiasm::Tensor logits = encoder.logits(ctx, images, texts);
    take(images);
    take(texts);
    seen.choose(logits);
    return seen;
  }
  const chiasm::Pipeline pipeline = chiasm::load(subject.model, loading);
  follow.resize(subject.prompts.size());
  for (std::size_t i = 0; i < subject.prompts.size(); ++i) {
    chiasm::Context ctx = pipeline.new_context();
    const chiasm::Message turn{"user", subject.prompts[i]};
    const chiasm::PreparedPrompt prompt = subject.turns ? pipeline.prepare(ctx, std::span(&turn, 1)) : pipeline.prepare(ctx, subject.prompts[i]);
    const chiasm::LanguageModel& lm = prompt.model ? *prompt.model : pipeline.language_model();
    if (follow[i].empty()) {
      chiasm::GenerateOptions greedy;
      greedy.max_new_tokens = steps;
      greedy.eos_token_id = std::vector<chiasm::TokenId>();
      chiasm::Generation generation(ctx, lm, prompt.embeddings.clone(), greedy, prompt.ids);
      while (const auto token = generation.next()) follow[i].push_back(*token);
    }
    chiasm::KvCache cache = lm.new_cache();
    for (const bool prompted : {true, false}) {
      const chiasm::Tensor inputs = prompted ? prompt.embeddings.clone() : lm.embed(ctx, follow[i]);
      const chiasm::Tensor states = lm.forward(ctx, inputs, cache), logits = lm.logits(ctx, states);
      take(states);
      seen.choose(logits);
    }
  }
  return seen;
}

struct Agreement {
  double mean_cosine = 0, least_cosine = 1;        // of rows of states
  std::size_t rows = 0;
  std::size_t same = 0, tokens = 0;                // next tokens
  std::size_t same_of_clear = 0, clear_tokens = 0;  // those of them where f32's choice is clear

  /// That of several subjects.
  void add(const Agreement& other) {
    const std::size_t all = rows + other.rows;
    if (all > 0) mean_cosine = (mean_cosine * static_cast<double>(rows) + other.mean_cosine * static_cast<double>(other.rows)) / static_cast<double>(all);
    least_cosine = std::min(least_cosine, other.least_cosine);
    rows = all;
    same += other.same, tokens += other.tokens;
    same_of_clear += other.same_of_clear, clear_tokens += other.clear_tokens;
  }
};

/// A choice is clear that leads by so much of the scores' standard deviation.
inline constexpr double clear_lead = 0.25;

inline Agreement compare(const Seen& one, const Seen& other) {
  Agreement agreement;
  const std::size_t rows = one.states.size() / std::max<std::size_t>(one.width, 1);
  for (std::size_t r = 0; r < rows; ++r) {
    double dot = 0, a = 0, b = 0;
    for (std::size_t i = r * one.width; i < (r + 1) * one.width; ++i) {
      const double x = static_cast<double>(one.states[i]), y = static_cast<double>(other.states[i]);
      dot += x * y, a += x * x, b += y * y;
    }
    const double cosine = a > 0 && b > 0 ? dot / std::sqrt(a * b) : a == b ? 1.0 : 0.0;
    agreement.mean_cosine += cosine / static_cast<double>(rows);
    agreement.least_cosine = std::min(agreement.least_cosine, cosine);
  }
  agreement.rows = rows;
  agreement.tokens = one.tokens.size();
  for (std::size_t t = 0; t < one.tokens.size(); ++t) {
    const bool same = one.tokens[t] == other.tokens[t], clear = one.leads[t] >= clear_lead;
    agreement.same += same;
    agreement.clear_tokens += clear;
    agreement.same_of_clear += same && clear;
  }
  return agreement;
}

/// A model of the folder examples/, asked about the pictures there.
inline Subject bundled_subject(const std::string& examples, const std::string& name) {
  Subject subject{name, examples + "/models/" + name, {}};
  if (name == "stories260k") {
    for (const char* const begin : {"Once upon a time", "One day, a little girl", "Tom had a red ball"}) subject.prompts.push_back(chiasm::Prompt{begin});
    return subject;
  }
  std::vector<chiasm::Image> pictures;
  for (int i = 1; i <= 12; ++i) pictures.push_back(chiasm::load_image(examples + "/pictures/shapes-" + (i < 10 ? "0" : "") + std::to_string(i) + ".png"));
  if (name == "shapes-clip") {
    subject.images = std::move(pictures);
    for (const char* const shape : {"circle", "triangle", "square", "star"})
      for (const char* const colour : {"red", "green", "blue", "yellow"}) subject.texts.push_back("a " + std::string(colour) + " " + shape);
    return subject;
  }
  const chiasm::Pipeline vlm = chiasm::load(subject.model);
  subject.turns = true;
  for (const chiasm::Image& picture : pictures) {
    subject.prompts.push_back(vlm.caption_prompt(picture));
    subject.prompts.push_back(vlm.answer_prompt(picture, "How many objects are there?"));
  }
  return subject;
}

/// A folder with a case.json (tests/golden/cases, what dump_reference.py writes). Throws FileError, FormatError.
inline Subject subject_of_case(const std::string& folder) {
  const reference::Case one = reference::open_case(folder);
  Subject subject{std::filesystem::path(folder).filename().string(), one.model, {}};
  const std::string family = one.description.at("family");
  if (family == "clip" || family == "siglip" || family == "blip2_itm") {
    for (const ordered_json& input : one.description.at("inputs")) {
      for (const std::string& file : input.value("images", std::vector<std::string>())) subject.images.push_back(reference::picture(folder, file, family));
      for (const std::string& text : input.value("texts", std::vector<std::string>())) subject.texts.push_back(text);
    }
    return subject;
  }
  // The placeholder is the model's to say.
  const std::string placeholder(chiasm::load(one.model).family().image_placeholder());
  for (const ordered_json& input : one.description.at("inputs")) {
    if (!input.contains("prompts")) {
      subject.prompts.push_back(reference::prompt_of(folder, input, placeholder, family));
      continue;
    }
    for (std::size_t b = 0; b < input.at("prompts").size(); ++b)  // OpenFlamingo's batches
      subject.prompts.push_back(reference::prompt_of(folder, {{"prompt", input.at("prompts").at(b)}, {"images", input.at("images").at(b)}}, placeholder, family));
  }
  return subject;
}

}  // namespace precision
