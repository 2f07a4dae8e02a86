// What the machine can do on all threads of a context together, as one line of JSON for bench/peers/run.py: GF/s, GOP/s (a multiplication and an addition are two)
// and GB/s, the best of many short runs.
#include "kernels/peak.hpp"

#include <chiasm/core/context.hpp>

#include <cstdio>
#include <string>

namespace {

using namespace chiasm;

/// Amounts of 1e9 a second, where each thread does `amount` in a call of `work(thread)`.
template <class Work>
double rate(Context& ctx, int repeats, double amount, Work work) {
  const auto all = [&] {
    ctx.parallel(ctx.threads(), 1, [&](std::size_t first, std::size_t last) {
      for (std::size_t t = first; t < last; ++t) work(t);
    });
  };
  return 1e-9 * amount * static_cast<double>(ctx.threads()) / peak::best(repeats, all, peak::wall);
}

}  // namespace

int main() {
  Context ctx;
  std::string json = "{\"threads\": " + std::to_string(ctx.threads());
  [[maybe_unused]] const auto add = [&](const char* name, double value) { json += std::string(", \"") + name + "\": " + std::to_string(value); };
#if CHIASM_X86
  const Isa isa = kernels::available().back();
  const auto has = [&](Isa tier) { return isa >= tier && isa <= Isa::amx; };
  if (has(Isa::avx2)) add("fma_avx2", rate(ctx, 100, 500000 * 10 * 16.0, [](std::size_t) { peak::fma_avx2(500000); }));
  if (has(Isa::avx512)) {
    add("fma_avx512", rate(ctx, 100, 500000 * 10 * 32.0, [](std::size_t) { peak::fma_avx512(500000); }));
    const auto& memory = peak::large();
    const std::size_t share = memory.size() / ctx.threads() / 4096 * 4096;
    const auto read = [&](float (*run)(const unsigned char*, std::size_t)) {
      return rate(ctx, 9, static_cast<double>(share), [&](std::size_t t) {
        const float sum = run(memory.data() + t * share, share);
        peak::keep(&sum);
      });
    };
    add("dram_1_stream", read(peak::read_stream));
    add("dram_8_streams", read(peak::read_streams));
  }
  if (has(Isa::amx)) {
    add("amx_bf16", rate(ctx, 100, 50000 * 4 * 16384.0, [](std::size_t) { peak::tiles_amx<false>(50000); }));
    add("amx_int8", rate(ctx, 100, 50000 * 4 * 32768.0, [](std::size_t) { peak::tiles_amx<true>(50000); }));
  }
#endif
  std::puts((json + "}").c_str());
  return 0;
}
