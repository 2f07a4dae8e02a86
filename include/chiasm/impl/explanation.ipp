#pragma once

#include <chiasm/pipelines/explanation.hpp>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Rows of numbers, of any length each.
using Rows = std::vector<std::vector<float>>;

/// What a query takes from its keys over all heads, in shares: probability times length of the value, without which keys that heads look at when
/// they have nothing to look at would count most. Kobayashi et al., arXiv:2004.10102.
inline Rows taken(const AttentionWeights& attention) {  // T rows of S
  const View weights = attention.weights;
  const std::size_t heads = weights.shape()[0], queries = weights.shape()[1], keys = weights.columns();
  Rows taken(queries, std::vector<float>(keys));
  for (std::size_t t = 0; t < queries; ++t) {
    float sum = 0;
    for (std::size_t h = 0; h < heads; ++h)
      for (std::size_t s = 0; s < keys; ++s) {
        const float part = weights.row(h * queries + t)[s] * (attention.value_norms.empty() ? 1.0f : attention.value_norms.row(h)[s]);
        taken[t][s] += part;
        sum += part;
      }
    if (sum > 0)
      for (float& part : taken[t]) part /= sum;
  }
  return taken;
}

/// One step of the rollout: what a row keeps, by the residual, and what it takes from the rows that it looks at, from `first` on, half each.
inline std::vector<float> mixed(const std::vector<float>& own, const std::vector<float>& weights, const Rows& from, std::size_t first = 0) {
  std::vector<float> y(own);
  for (float& value : y) value *= 0.5f;
  for (std::size_t s = 0; s < weights.size() && first + s < from.size(); ++s) {
    const std::vector<float>& row = from[first + s];
    if (weights[s] == 0 || row.empty()) continue;
    if (y.size() < row.size()) y.resize(row.size());
    for (std::size_t i = 0; i < row.size(); ++i) y[i] += 0.5f * weights[s] * row[i];
  }
  return y;
}

}  // namespace detail

struct AttentionRollout::Record {
  struct Call {
    detail::Rows weights;  // by query
    std::size_t first_query = 0, first_key = 0;
  };
  struct Layer {
    std::string module;
    std::size_t index = 0;
    std::vector<Call> calls;  // in the order in which they came
  };
  std::vector<Layer> layers;  // the same, by their first calls

  Layer& layer(std::string_view module, std::size_t index) {
    for (Layer& known : layers)
      if (known.module == module && known.index == index) return known;
    return layers.emplace_back(Layer{std::string(module), index, {}});
  }
  bool has(std::string_view module) const {
    return std::any_of(layers.begin(), layers.end(), [&](const Layer& layer) { return layer.module == module; });
  }

  /// What connects the vision tower with the language model: how much of each state of the tower, (states), is in each of the rows that stand for
  /// picture n. None where the rows are the states themselves.
  std::optional<detail::Rows> connector(std::size_t n) const {
    std::optional<detail::Rows> rows;
    std::size_t queries = 0;
    for (const Layer& layer : layers) {
      const bool resampler = layer.module == "resampler", self = layer.module == "qformer.self_attention", cross = layer.module == "qformer.cross_attention";
      if ((!resampler && !self && !cross) || layer.calls.size() <= n) continue;
      const detail::Rows& weights = layer.calls[n].weights;
      if (!rows) rows.emplace();
      rows->resize(std::max(rows->size(), weights.size()));
      detail::Rows from;
      if (resampler || cross) {  // the tower's states
        const std::size_t states = weights.front().size() - (resampler ? weights.size() : 0);
        for (std::size_t s = 0; s < states; ++s) from.emplace_back(states)[s] = 1;
      }
      if (resampler || self) from.insert(from.end(), rows->begin(), rows->end());
      if (cross) queries = weights.size();
      for (std::size_t t = 0; t < weights.size(); ++t) (*rows)[t] = detail::mixed((*rows)[t], weights[t], from);
    }
    if (queries > 0) rows->resize(queries);  // the others are a text's
    return rows;
  }
};

CHIASM_INLINE AttentionRollout::AttentionRollout() : record_(std::make_unique<Record>()) {}
CHIASM_INLINE AttentionRollout::~AttentionRollout() = default;
CHIASM_INLINE AttentionRollout::AttentionRollout(AttentionRollout&&) noexcept = default;
CHIASM_INLINE AttentionRollout& AttentionRollout::operator=(AttentionRollout&&) noexcept = default;

CHIASM_INLINE void AttentionRollout::watch(const AttentionWeights& attention) {
  // A family that runs a part of its language model while it prepares a prompt says so in the name.
  const std::string_view name = attention.name.starts_with("lm.") ? attention.name.substr(3) : attention.name;
  record_->layer(name, attention.layer).calls.push_back({detail::taken(attention), attention.first_query, attention.first_key});
}

CHIASM_INLINE std::vector<AttentionRollout::Heat> AttentionRollout::heat(std::span<const PreparedPrompt::Picture> pictures, std::span<const Tokens> stretches) const {
  // The tower's states of all pictures stand side by side in a row.
  detail::Rows seen;                        // what stands for the pictures, one picture after the other
  std::vector<std::size_t> states, firsts;  // by picture: of its states, of its rows in `seen`
  std::size_t all = 0;
  for (std::size_t n = 0; n < pictures.size(); ++n) {
    std::optional<detail::Rows> rows = record_->connector(n);
    if (!rows) {
      rows.emplace(pictures[n].rows, std::vector<float>(pictures[n].rows));
      for (std::size_t s = 0; s < rows->size(); ++s) (*rows)[s][s] = 1;
    }
    states.push_back(rows->empty() ? 0 : rows->front().size());
    firsts.push_back(seen.size());
    for (std::vector<float>& row : *rows) {
      row.insert(row.begin(), all, 0.0f);
      seen.push_back(std::move(row));
    }
    all += states.back();
  }

  // Text that looks at pictures from within its layers has nothing of them at first; otherwise they stand in the text.
  const bool gated = record_->has("xattn"), encodes = record_->has("encoder.self_attn");
  detail::Rows encoder, text;
  const auto put_pictures = [&](detail::Rows& rows) {
    for (std::size_t n = 0; n < pictures.size(); ++n) {
      const std::size_t count = (n + 1 < firsts.size() ? firsts[n + 1] : seen.size()) - firsts[n];
      for (std::size_t t = 0; t < std::min(count, pictures[n].rows) && pictures[n].begin + t < rows.size(); ++t)
        rows[pictures[n].begin + t] = seen[firsts[n] + t];
    }
  };
  const auto step = [&](const Record::Layer& layer, detail::Rows& rows, const detail::Rows& from) {
    detail::Rows next = rows;
    for (const Record::Call& call : layer.calls)
      for (std::size_t t = 0; t < call.weights.size() && call.first_query + t < rows.size(); ++t)
        next[call.first_query + t] = detail::mixed(rows[call.first_query + t], call.weights[t], from, call.first_key);
    rows = std::move(next);
  };
  for (const Record::Layer& layer : record_->layers) {
    const bool self = layer.module == "self_attn", encoding = layer.module == "encoder.self_attn", looking = layer.module == "xattn";
    if (!self && !encoding && !looking && layer.module != "cross_attn") continue;
    detail::Rows& rows = encoding ? encoder : text;
    if (rows.empty()) {
      std::size_t length = 0;
      for (const Record::Layer& same : record_->layers)
        if (same.module == (encoding ? "encoder.self_attn" : "self_attn"))
          for (const Record::Call& call : same.calls) length = std::max(length, call.first_query + call.weights.size());
      rows.resize(length);
      if (!gated && encoding == encodes) put_pictures(rows);
    }
    step(layer, rows, looking ? seen : self || encoding ? rows : encoder);
  }
  std::vector<Heat> heats;
  for (const auto& [begin, end] : stretches) {
    if (begin >= end || end > text.size())
      throw ArgumentError("AttentionRollout: tokens " + std::to_string(begin) + " to " + std::to_string(end) + " of " + std::to_string(text.size()) + " that were watched");
    Heat& heat = heats.emplace_back();
    std::size_t first = 0;
    for (const std::size_t count : states) {
      std::vector<float>& one = heat.emplace_back(count);
      for (std::size_t t = begin; t < end; ++t)
        for (std::size_t s = 0; s < count && first + s < text[t].size(); ++s) one[s] += text[t][first + s];
      first += count;
    }
  }
  return heats;
}

CHIASM_INLINE HeatMap::Point HeatMap::centre() const noexcept {
  float highest = 0;
  for (const float value : values) highest = std::max(highest, value);
  double x = 0, y = 0, sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double weight = std::max(0.0, static_cast<double>(values[i]) - 0.5 * static_cast<double>(highest));
    x += weight * (static_cast<double>(i % columns) + 0.5);
    y += weight * (static_cast<double>(i / columns) + 0.5);
    sum += weight;
  }
  if (sum == 0) return {0.5, 0.5};
  return {field.left + (field.right - field.left) * x / sum / static_cast<double>(columns), field.top + (field.bottom - field.top) * y / sum / static_cast<double>(rows)};
}

CHIASM_INLINE float HeatMap::at(Point point) const noexcept {
  if (values.empty() || point.x < field.left || point.x > field.right || point.y < field.top || point.y > field.bottom) return 0;
  const auto place = [](double share, std::size_t count) {  // between the centres of two patches
    const double at = std::clamp(share * static_cast<double>(count) - 0.5, 0.0, static_cast<double>(count - 1));
    const auto low = static_cast<std::size_t>(at);
    return std::tuple(low, std::min(low + 1, count - 1), at - static_cast<double>(low));
  };
  const auto [left, right, across] = place((point.x - field.left) / (field.right - field.left), columns);
  const auto [top, bottom, down] = place((point.y - field.top) / (field.bottom - field.top), rows);
  const auto value = [&](std::size_t row, std::size_t column) { return static_cast<double>(values[row * columns + column]); };
  const double upper = value(top, left) * (1 - across) + value(top, right) * across, lower = value(bottom, left) * (1 - across) + value(bottom, right) * across;
  return static_cast<float>(upper * (1 - down) + lower * down);
}

CHIASM_INLINE Explained explain(const Pipeline& vlm, const Prompt& prompt, const GenerateOptions& options, const OnText& on_text, CancelToken cancel) {
  if (options.or_else(vlm.generation_config()).num_beams.value_or(1) > 1) throw ArgumentError("explain: num_beams: an answer of a beam search cannot be followed");
  std::vector<PatchGrid> grids;
  for (const Prompt::Part& part : prompt.parts())
    if (part.image() != nullptr) {
      grids.push_back(vlm.family().patch_grid(*part.image()));
      if (grids.back().rows == 0) throw UnsupportedError("explain: pictures of '" + std::string(vlm.family().name()) + "' are not grids of patches");
    }
  AttentionRollout rollout;
  ContextOptions watching;
  watching.cancel = std::move(cancel);
  watching.on_attention = [&](const AttentionWeights& attention) { rollout.watch(attention); };
  Context ctx = vlm.new_context(std::move(watching));
  Explained explained{vlm.generate(ctx, prompt, options, on_text), {}};

  const Reply& reply = explained.reply;
  if (reply.times.prefill_tokens == 0) return explained;  // cancelled before there was anything
  // A token was chosen by what stood before it; the end of the answer is not part of it.
  const std::size_t begin = reply.times.prefill_tokens - 1, tokens = reply.ids.size() - (reply.finish_reason == FinishReason::eos ? 1 : 0);
  const std::size_t end = begin + std::max<std::size_t>(tokens, 1);
  // Some patches, and queries, are looked at by all text, whatever it says: what counts is what the answer took beyond the question's tokens.
  std::size_t words = 0;
  for (const PreparedPrompt::Picture& picture : reply.pictures) words = std::max(words, picture.begin + picture.rows);
  std::vector<AttentionRollout::Tokens> stretches{{begin, end}};
  if (words < begin) stretches.push_back({words, begin});
  std::vector<AttentionRollout::Heat> heats = rollout.heat(reply.pictures, stretches);
  AttentionRollout::Heat& heat = heats.front();
  if (words < begin) {
    const AttentionRollout::Heat& usual = heats.back();
    const float share = static_cast<float>(end - begin) / static_cast<float>(begin - words);
    for (std::size_t n = 0; n < heat.size(); ++n) {
      std::vector<float> beyond = heat[n];
      for (std::size_t i = 0; i < beyond.size(); ++i) beyond[i] = std::max(0.0f, beyond[i] - share * usual[n][i]);
      if (std::any_of(beyond.begin(), beyond.end(), [](float value) { return value > 0; })) heat[n] = std::move(beyond);
    }
  }
  for (std::size_t n = 0; n < grids.size() && n < heat.size(); ++n) {
    HeatMap map{grids[n].rows, grids[n].columns, std::vector<float>(grids[n].rows * grids[n].columns), grids[n].field};
    // A picture of several frames has the states of one after the other.
    const std::size_t states = grids[n].class_tokens + map.values.size(), frames = heat[n].size() % states == 0 ? heat[n].size() / states : 1;
    float sum = 0;
    for (std::size_t frame = 0; frame < frames; ++frame)
      for (std::size_t i = 0; i < map.values.size(); ++i) {
        const std::size_t state = frame * states + grids[n].class_tokens + i;
        const float value = state < heat[n].size() ? heat[n][state] : 0.0f;
        map.values[i] += value;
        sum += value;
      }
    if (sum > 0)
      for (float& value : map.values) value /= sum;
    explained.pictures.push_back(std::move(map));
  }
  return explained;
}

}  // namespace chiasm
