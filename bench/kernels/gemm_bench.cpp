/// Products against the processor's own limit: GF/s, GB/s and the share of the peak that this program measures. One thread.
#include "peak.hpp"

#include <benchmark/benchmark.h>

#include <new>
#include <string>

using namespace chiasm;

namespace {

struct Aligned {
  explicit Aligned(std::size_t bytes) : data(::operator new(bytes + 64, std::align_val_t(64))) {
    std::memset(data, 0, bytes + 64);
  }
  ~Aligned() { ::operator delete(data, std::align_val_t(64)); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  void* data;
};

/// `chained`: x comes packed, and goes on packed to the next product.
void gemm(benchmark::State& state, Isa isa, DType kind, std::size_t compute, double limit, bool chained = false) {
  const auto tokens = static_cast<std::size_t>(state.range(0)), outputs = static_cast<std::size_t>(state.range(1)),
             depth = static_cast<std::size_t>(state.range(2));
  const kernels::Gemm& g = kernels::table(isa).gemm[compute][static_cast<std::size_t>(kind)];
  const Aligned x(tokens * depth * 4), w(outputs * depth * 4), y(tokens * outputs * 4), packed(g.packed_bytes(tokens, depth)),
      next(g.packed_bytes(tokens, outputs)), scratch(g.scratch_bytes);
  kernels::Output out{y.as<float>(), outputs};
  if (chained) {
    out.packed = next.data;
    out.packed_depth = outputs;
  }
  for (std::size_t i = 0; i < tokens * depth; ++i) x.as<float>()[i] = static_cast<float>(i % 17) - 8.0f;
  double least = 1e30;
  for (auto _ : state) {
    const double begin = peak::now();
    const std::size_t panels = (tokens + g.panel - 1) / g.panel;
    if (!chained) g.pack(x.as<float>(), depth, tokens, depth, 0, panels, packed.data);
    g.run({packed.data,
           tokens,
           depth,
           w.data,
           is_block_format(kind) ? panel_bytes(kind, depth) : depth * size_of(kind),
           0,
           panels,
           0,
           outputs,
           out,
           scratch.data});
    least = std::min(least, peak::now() - begin);
  }
  const double rate = 2e-9 * static_cast<double>(tokens * outputs * depth) / least;
  state.counters["GF/s"] = rate;
  if (limit > 0) state.counters["%peak"] = 100 * rate / limit;
}

void gemv(benchmark::State& state, Isa isa, DType kind, double limit) {
  const auto tokens = static_cast<std::size_t>(state.range(0)), depth = static_cast<std::size_t>(state.range(1));
  const auto& memory = peak::large();
  const std::size_t outputs = memory.size() / (depth * size_of(kind));
  const Aligned x(tokens * depth * 4), y(tokens * outputs * 4);
  double least = 1e30;
  for (auto _ : state) {
    const double begin = peak::now();
    // In calls of about 4 MB, as matmul makes them.
    const std::size_t piece = (std::size_t{4} << 20) / (depth * size_of(kind));
    for (std::size_t n = 0; n < outputs; n += piece)
      kernels::table(isa).gemv[static_cast<std::size_t>(kind)]({x.as<float>(),
                                                                depth,
                                                                tokens,
                                                                depth,
                                                                memory.data(),
                                                                depth * size_of(kind),
                                                                n,
                                                                std::min(n + piece, outputs),
                                                                {y.as<float>(), outputs}});
    least = std::min(least, peak::now() - begin);
  }
  const double rate = static_cast<double>(outputs * depth * size_of(kind)) / least * 1e-9;
  state.counters["GB/s"] = rate;
  if (limit > 0) state.counters["%peak"] = 100 * rate / limit;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const double bandwidth = peak::bandwidth();
  benchmark::AddCustomContext("DRAM GB/s, 8 streams", std::to_string(bandwidth));
  for (const Isa isa : kernels::available()) {
    const double limit = peak::flops(isa), tiles = peak::flops(isa, true);
    benchmark::AddCustomContext(std::string(name(isa)) + " GF/s",
                                std::to_string(limit) + (isa == Isa::amx ? ", bf16 tiles " + std::to_string(tiles) : ""));
    for (const DType kind : {DType::f32, DType::bf16, DType::f16}) {
      const std::string tier = std::string(name(isa)) + "/" + std::string(name(kind));
      auto* b =
          benchmark::RegisterBenchmark(("gemm/" + tier).c_str(), [=](benchmark::State& s) { gemm(s, isa, kind, 0, limit); });
      b->ArgNames({"tokens", "outputs", "depth"})
          ->Args({1024, 1024, 1024})
          ->Args({577, 4096, 1024})
          ->Args({577, 1024, 4096})
          ->Args({512, 2048, 2048})
          ->Args({32, 2048, 2048})
          ->Args({9, 2048, 2048});
      for (const bool chained : {false, true}) {
        if (isa != Isa::amx) break;
        auto* t = benchmark::RegisterBenchmark(((chained ? "gemm_bf16_chained/" : "gemm_bf16/") + tier).c_str(),
                                               [=](benchmark::State& s) { gemm(s, isa, kind, 1, tiles, chained); });
        t->ArgNames({"tokens", "outputs", "depth"})
            ->Args({1024, 1024, 1024})
            ->Args({577, 1024, 1024})
            ->Args({577, 4096, 1024})
            ->Args({577, 1024, 4096})
            ->Args({512, 2048, 2048})
            ->Args({512, 11264, 2048})
            ->Args({512, 2048, 5632})
            ->Args({128, 11264, 2048})
            ->Args({32, 2048, 2048});
      }
      if (isa == Isa::amx && kind == DType::bf16)
        for (const bool chained : {false, true})  // int8 tiles do twice as many
          benchmark::RegisterBenchmark(chained ? "gemm_i8_chained/amx/q8_row" : "gemm_i8/amx/q8_row", [=](benchmark::State& s) { gemm(s, isa, DType::q8_row, 2, 2 * tiles, chained); })
              ->ArgNames({"tokens", "outputs", "depth"})
              ->Args({1024, 1024, 1024})
              ->Args({577, 1024, 1024})
              ->Args({577, 4096, 1024})
              ->Args({577, 1024, 4096})
              ->Args({512, 11264, 2048})
              ->Args({512, 2048, 5632})
              ->Args({128, 11264, 2048});
      auto* v =
          benchmark::RegisterBenchmark(("gemv/" + tier).c_str(), [=](benchmark::State& s) { gemv(s, isa, kind, bandwidth); });
      v->ArgNames({"tokens", "depth"})->Args({1, 2048})->Args({1, 5632})->Args({4, 2048})->Args({8, 2048})->MinTime(0.2);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
