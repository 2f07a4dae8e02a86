/// HashLm: a language model without weights, for tests of what generates with one.
#pragma once

#include "support/catch.hpp"

#include <chiasm/modules/language_model.hpp>

#include <chrono>
#include <thread>

/// A language model that is a formula of the last three tokens: the same as Formula in tests/golden/generation/make.py. What it knows of the past
/// it reads from the cache, so that a wrong cache gives wrong tokens.
class HashLm final : public chiasm::LanguageModel {
 public:
  explicit HashLm(std::size_t vocab, std::uint32_t salt = 1, double scale = 1) : vocab_(vocab), salt_(salt), scale_(scale) {}

  std::size_t vocab_size() const noexcept override { return vocab_; }
  std::size_t hidden_size() const noexcept override { return 3; }
  chiasm::KvCache new_cache() const override { return chiasm::KvCache(2, 1, 3, 1); }

  chiasm::Tensor embed(chiasm::Context& ctx, std::span<const chiasm::TokenId> ids) const override {
    chiasm::Tensor x = ctx.zeros(chiasm::Shape{ids.size(), 3});
    for (std::size_t i = 0; i < ids.size(); ++i) x.row(i)[0] = static_cast<float>(ids[i] + 1);
    return x;
  }

  using chiasm::LanguageModel::forward;
  chiasm::Tensor forward(chiasm::Context& ctx, chiasm::View x, std::span<const chiasm::Sequence> batch, const chiasm::BlockHook*) const override {
    ++passes;
    rows += x.rows();
    if (pass_time.count() > 0) std::this_thread::sleep_for(pass_time);
    chiasm::Tensor hidden = ctx.zeros(x.shape());
    std::size_t row = 0;
    for (const chiasm::Sequence& sequence : batch) {
      chiasm::Tensor values = ctx.zeros(chiasm::Shape{sequence.rows, 1});
      for (std::size_t layer = 0; layer < 2; ++layer) {
        if (layer == 1 && cancel_between_layers) ctx.cancel_token().cancel();
        ctx.check_cancelled();
        (*sequence.cache)[layer].append(ctx, x.slice(row, sequence.rows), values);
      }
      const chiasm::KvView past = (*sequence.cache)[1].view();
      for (std::size_t t = 0; t < sequence.rows; ++t, ++row) {
        const std::size_t position = past.length - sequence.rows + t;
        for (std::size_t back = 0; back < 3 && back <= position; ++back) hidden.row(row)[back] = past.keys[(position - back) * past.key_stride];
      }
    }
    REQUIRE(row == x.rows());
    return hidden;
  }

  chiasm::Tensor logits(chiasm::Context& ctx, chiasm::View hidden) const override {
    logit_rows += hidden.rows();
    chiasm::Tensor scores = ctx.empty(chiasm::Shape{hidden.rows(), vocab_});
    for (std::size_t t = 0; t < hidden.rows(); ++t) {
      const auto token = [&](std::size_t back) { return static_cast<std::uint32_t>(hidden.row(t)[back]); };
      const std::uint32_t base = (token(2) * 73856093u) ^ (token(1) * 19349663u) ^ (token(0) * 83492791u) ^ (salt_ * 2246822519u);
      for (std::size_t v = 0; v < vocab_; ++v) {
        std::uint32_t h = base ^ (static_cast<std::uint32_t>(v + 1) * 2654435761u);
        h ^= h >> 15, h *= 0x2C1B3C6Du, h ^= h >> 12, h *= 0x297A2D39u, h ^= h >> 15;
        scores.row(t)[v] = static_cast<float>((static_cast<double>(h & 0xFFFFFu) * 10 / 1048576 - 5) * scale_);
      }
    }
    return scores;
  }

  mutable std::size_t passes = 0, rows = 0, logit_rows = 0;
  bool cancel_between_layers = false;
  std::chrono::microseconds pass_time{0};  // a pass takes, however many rows it has

 private:
  std::size_t vocab_;
  std::uint32_t salt_;
  double scale_;
};
