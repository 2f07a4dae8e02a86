/// Measure: what the benchmarks of whole models share. One set of threads, one model of a kind at a time, the machine's limits beside the result.
#pragma once

#include "kernels/peak.hpp"

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/nn/matmul.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>

namespace measure {

using chiasm::Compute;
using chiasm::Context;
using chiasm::DType;

constexpr double min_seconds = 1.0;

/// A context that stays, so that its memory is recycled between runs as it is in a program.
inline Context& context(Compute compute) {
  static const auto pool = std::make_shared<chiasm::ThreadPool>();
  const auto make = [&](Compute precision) {
    chiasm::ContextOptions options;
    options.compute = precision;
    return Context(pool, options);
  };
  static Context f32 = make(Compute::f32), bf16 = make(Compute::bf16), i8 = make(Compute::i8);
  return compute == Compute::f32 ? f32 : compute == Compute::bf16 ? bf16 : i8;
}

/// What only() should call weights that are laid out for a precision.
inline std::string kind_of(std::string_view weights, Compute compute) {
  return std::string(weights) + (weights == "bf16" && chiasm::reads_bf16_panels(compute) ? " in panels" : "");
}

/// The model called `name`; `make` returns it as a unique_ptr. The one before goes first: two would not fit everywhere.
template <class Model, class Make>
const Model& only(const std::string& name, Make make) {
  static std::string held;
  static std::unique_ptr<const Model> model;
  if (held != name) {
    model.reset();
    context(Compute::f32).trim();
    context(Compute::bf16).trim();
    context(Compute::i8).trim();
    model = make();
    held = name;
  }
  return *model;
}

/// Runs `work` as often as `state` asks, after one unmeasured run where `name` is new: page faults and first allocations are no part of the speed.
/// Mean seconds of one run; the fastest goes into counter best_ms, which other load on the machine hardly changes.
template <class Work>
double run(benchmark::State& state, const std::string& name, Work work) {
  static std::string warm;
  if (warm != name) work();
  warm = name;
  double total = 0, best = 1e30;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    total += seconds;
    best = std::min(best, seconds);
  }
  state.counters["best_ms"] = 1e3 * best;
  return total / static_cast<double>(state.iterations());
}

/// "vit_b_224/encode/weights:bf16/compute:f32"
inline std::string label(const std::string& work, DType weights, Compute compute) {
  return work + "/weights:" + std::string(chiasm::name(weights)) + "/compute:" + std::string(chiasm::name(compute));
}

inline void add_machine(benchmark::State& state, const Context& ctx) {
  state.SetLabel(std::string(ctx.isa()) + ", " + std::to_string(ctx.threads()) + (ctx.threads() == 1 ? " thread" : " threads"));
}

/// GF/s, and the share of what the processor's units can do in this precision on as many threads, where that is known.
inline void add_flops(benchmark::State& state, Context& ctx, double flops, double seconds) {
  const chiasm::Isa isa = ctx.kernels().isa;
  const double rate = 1e-9 * flops / seconds;
  const double of_one = peak::flops(isa, isa == chiasm::Isa::amx && ctx.compute() != Compute::f32), limit = of_one * static_cast<double>(ctx.threads()) * (ctx.compute() == Compute::i8 ? 2 : 1);
  state.counters["GF/s"] = rate;
  if (limit > 0) state.counters["%peak"] = 100 * rate / limit;
}

/// GB/s that the threads together read from memory; 0 where it is not known.
inline double memory_rate(Context& ctx) {
#if CHIASM_X86
  if (chiasm::kernels::available().back() < chiasm::Isa::avx512) return 0;
  static const double rate = [&] {
    const auto& memory = peak::large();
    const std::size_t share = memory.size() / ctx.threads() / 4096 * 4096;
    const auto read = [&] {
      ctx.parallel(ctx.threads(), 1, [&](std::size_t first, std::size_t last) {
        for (std::size_t t = first; t < last; ++t) {
          const float sum = peak::read_streams(memory.data() + t * share, share);
          peak::keep(&sum);
        }
      });
    };
    return 1e-9 * static_cast<double>(share * ctx.threads()) / peak::best(7, read, peak::wall);
  }();
  return rate;
#else
  return 0;
#endif
}

/// GB/s of `bytes` that are read once, and the share of what the memory gives, where that is known.
inline void add_bytes(benchmark::State& state, Context& ctx, double bytes, double seconds) {
  const double rate = 1e-9 * bytes / seconds, limit = memory_rate(ctx);
  state.counters["GB/s"] = rate;
  if (limit > 0) state.counters["%memory"] = 100 * rate / limit;
}

}  // namespace measure
