/// GatedDecoder: a language model with gated cross-attention blocks before some of its layers, and one prompt's pictures. What Flamingo
/// (arXiv:2204.14198) and IDEFICS (2306.16527) generate with.
///
///     GatedDecoder blind{std::move(lm), std::move(blocks), {.first = 3, .interval = 4}};       // before layers 3, 7, 11, ...; sees nothing yet
///     const std::shared_ptr<const LanguageModel> lm =
///         blind.bind(ctx, resampled, media_runs(ids, image_token));                           // (N, L, Dv); goes into PreparedPrompt::model
///
/// Bound to a prompt, it is used like any language model, with caches of any length: positions of the prompt see what the runs say, those behind it what
/// the prompt's last one sees. All sequences of a batch go on from that prompt: beams, several answers.
#pragma once

#include <chiasm/modules/gated_cross_attention.hpp>
#include <chiasm/modules/language_model.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// The layers that have a block before them: `first`, `first + interval`, ... OpenFlamingo counts first = interval - 1, IDEFICS 0.
struct GatedLayers {
  std::size_t first = 0, interval = 1;
};

class GatedDecoder final : public LanguageModel {
 public:
  using LanguageModel::forward;

  /// One that sees nothing: attention is left out, while feed-forward parts act on all rows.
  GatedDecoder(std::unique_ptr<const LanguageModel> inner, std::vector<GatedCrossAttention> blocks, GatedLayers layers)
      : model_(std::make_shared<const Model>(Model{std::move(inner), std::move(blocks), layers})) {
    if (layers.interval == 0) throw ArgumentError("GatedDecoder: interval 0");
  }

  /// The same model, looking at the media of a prompt, whose positions see what `runs` say. It shares the weights with this one. Throws ShapeError (also for
  /// runs that see more media than there are), Cancelled.
  std::shared_ptr<const GatedDecoder> bind(Context& ctx, View media, std::vector<MediaRun> runs) const {  // (N, L, Dv)
    for (const MediaRun& run : runs)
      if (run.first + run.count > (media.shape().rank() == 3 ? media.shape()[0] : 0))
        throw ShapeError("GatedDecoder", "media " + media.shape().to_string() + " for text that sees medium " + std::to_string(run.first + run.count - 1));
    auto bound = std::shared_ptr<GatedDecoder>(new GatedDecoder(model_, std::move(runs)));
    for (const GatedCrossAttention& block : model_->blocks) {
      ctx.check_cancelled();
      bound->keys_values_.push_back(block.keys_values(ctx, media));
    }
    return bound;
  }

  const LanguageModel& inner() const noexcept { return *model_->inner; }
  /// What the prompt's positions see; the last run has no end. Empty: nothing.
  std::span<const MediaRun> runs() const noexcept { return runs_; }

  std::size_t vocab_size() const noexcept override { return inner().vocab_size(); }
  std::size_t hidden_size() const noexcept override { return inner().hidden_size(); }
  KvCache new_cache() const override { return inner().new_cache(); }
  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return inner().embed(ctx, ids); }
  Tensor logits(Context& ctx, View hidden) const override { return inner().logits(ctx, hidden); }

  /// Where rows see media that come behind them, the beginning of a prompt depends on all of it.
  std::size_t stable_length() const noexcept override {
    for (const MediaRun& run : runs_)
      if (run.mean) return 0;
    return inner().stable_length();
  }

  Tensor forward(Context& ctx, View x, std::span<const Sequence> batch, const BlockHook* before_block) const override {  // (T, D) -> (T, D)
    const std::size_t most = batch.size() * (runs_.size() + 1);
    BasicTensor<MediaRun> rows = ctx.empty<MediaRun>(Shape{most});  // of this pass, sequence after sequence
    std::size_t count = 0;
    for (const Sequence& sequence : batch) count = add_rows(sequence, rows.values(), count);
    const std::span<const MediaRun> seen = rows.values().first(count);
    const std::size_t position = batch.empty() || batch[0].cache == nullptr ? 0 : batch[0].cache->length();
    const MediaKeysValues nothing;
    const auto hook = [&](std::size_t layer, MutView hidden) {
      const auto [first, interval] = model_->layers;
      const std::size_t block = layer < first ? model_->blocks.size() : (layer - first) / interval;
      if (block < model_->blocks.size() && (layer - first) % interval == 0) {
        model_->blocks[block](ctx, hidden, keys_values_.empty() ? nothing : keys_values_[block], seen, block, position);
        ctx.observe("xattn", block, hidden);
      }
      if (before_block != nullptr) (*before_block)(layer, hidden);
    };
    const BlockHook gated = hook;
    return inner().forward(ctx, x, batch, &gated);
  }

 private:
  struct Model {
    std::unique_ptr<const LanguageModel> inner;
    std::vector<GatedCrossAttention> blocks;
    GatedLayers layers;
  };
  GatedDecoder(std::shared_ptr<const Model> model, std::vector<MediaRun> runs) : model_(std::move(model)), runs_(std::move(runs)) {}

  /// Appends what the new positions of a sequence see.
  std::size_t add_rows(const Sequence& sequence, std::span<MediaRun> to, std::size_t count) const {
    const std::size_t begin = sequence.cache == nullptr ? 0 : sequence.cache->length(), end = begin + sequence.rows;
    const auto add = [&](const MediaRun& run, std::size_t rows) {
      if (count > 0 && to[count - 1].sees_what(run)) {  // beams: their rows are one run
        to[count - 1].rows += rows;
      } else {
        to[count] = run;
        to[count++].rows = rows;
      }
    };
    std::size_t at = 0, done = begin;  // position where a run begins; position up to which `to` reaches
    for (std::size_t i = 0; i < runs_.size() && done < end; ++i) {
      const std::size_t last = i + 1 == runs_.size() ? end : std::min(end, at + runs_[i].rows);
      if (last > done) add(runs_[i], last - std::exchange(done, last));
      at += runs_[i].rows;
    }
    if (done < end) add(MediaRun(), end - done);
    return count;
  }

  std::shared_ptr<const Model> model_;
  std::vector<MediaRun> runs_;
  std::vector<MediaKeysValues> keys_values_;  // by block; none: it sees nothing
};

}  // namespace chiasm
