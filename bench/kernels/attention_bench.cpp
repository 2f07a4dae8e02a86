/// Attention against the processor's own limit: GF/s of both products and the share of the peak that this program measures; for
/// decode, GB/s of keys and values. One thread.
#include "peak.hpp"

#include <benchmark/benchmark.h>

#include <string>

using namespace chiasm;

namespace {

void attention(benchmark::State& state, Isa isa, std::size_t compute, double limit, bool distances) {
  const auto queries = static_cast<std::size_t>(state.range(0)), keys = static_cast<std::size_t>(state.range(1)),
             heads = static_cast<std::size_t>(state.range(2)), kv_heads = static_cast<std::size_t>(state.range(3)),
             dim = static_cast<std::size_t>(state.range(4));
  const kernels::Attention& kernel = kernels::table(isa).attention[compute];
  std::vector<float> q(queries * heads * dim, 0.1f), k(keys * kv_heads * dim, 0.2f), v(keys * kv_heads * dim, 0.3f), y(q.size());
  std::vector<unsigned char> scratch(kernel.scratch_bytes(dim, dim) + 64);
  kernels::AttentionCall call;
  call.q = q.data(), call.q_row = heads * dim;
  call.k = k.data(), call.k_row = kv_heads * dim, call.k_head = dim;
  call.v = v.data(), call.v_row = kv_heads * dim, call.v_head = dim;
  call.y = y.data(), call.y_row = heads * dim;
  call.queries = queries, call.keys = keys, call.heads = heads, call.kv_heads = kv_heads, call.head_dim = call.v_dim = dim;
  call.scale = 0.125f;
  const std::vector<float> biases(distances ? heads * (queries + keys) : 0, 0.1f);
  if (distances) call.distance_bias = biases.data() + queries, call.distance_bias_head = queries + keys;
  call.scratch = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(scratch.data()) + 63) / 64 * 64);
  const std::size_t rows = queries * heads / kv_heads;
  double least = 1e30;
  for (auto _ : state) {
    const double begin = peak::now();
    for (call.kv_head = 0; call.kv_head < kv_heads; ++call.kv_head)
      for (call.row_begin = 0; call.row_begin < rows; call.row_begin = call.row_end) {
        call.row_end = std::min(rows, call.row_begin + kernel.rows);
        kernel.run(call);
      }
    least = std::min(least, peak::now() - begin);
  }
  const double rate = 4e-9 * static_cast<double>(queries * keys * heads * dim) / least;
  state.counters["GF/s"] = rate;
  if (limit > 0) state.counters["%peak"] = 100 * rate / limit;
  state.counters["GB/s"] = static_cast<double>((k.size() + v.size()) * sizeof(float)) / least * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const Isa isa : kernels::available()) {
    const bool tiles = isa == Isa::amx;  // in f32 it is the AVX-512 tier's
    const double limit = peak::flops(isa, tiles);
    benchmark::AddCustomContext(std::string(name(isa)) + " GF/s", std::to_string(limit));
    benchmark::RegisterBenchmark(("attention/" + std::string(name(isa))).c_str(),
                                 [=](benchmark::State& s) { attention(s, isa, tiles ? 1 : 0, limit, false); })
        ->ArgNames({"queries", "keys", "heads", "kv_heads", "dim"})
        ->Args({577, 577, 16, 16, 64})
        ->Args({197, 197, 12, 12, 64})
        ->Args({512, 512, 32, 4, 64})
        ->Args({512, 512, 32, 32, 128})
        ->Args({1, 2048, 32, 4, 64})
        ->Args({1, 2048, 32, 32, 128})
        ->Args({64, 640, 8, 8, 64})
        ->Args({32, 257, 12, 12, 64});
    benchmark::RegisterBenchmark(("attention_by_distance/" + std::string(name(isa))).c_str(),
                                 [=](benchmark::State& s) { attention(s, isa, tiles ? 1 : 0, limit, true); })
        ->ArgNames({"queries", "keys", "heads", "kv_heads", "dim"})
        ->Args({512, 512, 12, 12, 64})
        ->Args({1, 512, 12, 12, 64});
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
