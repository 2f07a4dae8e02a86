// Products with weights in bf16 and in block formats, as the layers of a 1.1B model ask for them (2048 wide, 5632 in the feed-forward part): GB/s of weights for few tokens,
// beside what the memory gives in the same minute, GF/s for many, and GB/s of packing. Of several runs of each layer (each 16 MB of memory) the best counts, so that a machine with other work to do measures nearly the same.
//   quant_bench [kind ...]      CHIASM_THREADS and CHIASM_ISA as ever
#include "kernels/peak.hpp"

#include <chiasm/core/pack.hpp>
#include <chiasm/nn/matmul.hpp>

#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

namespace {

using namespace chiasm;

/// Seconds of the fastest of `repeats` calls, on all threads.
template <class F>
double best(int repeats, F f) {
  return peak::best(repeats, f, peak::wall);
}

/// GB/s of all threads together, each reading eight streams.
double memory_rate([[maybe_unused]] Context& ctx) {
#if CHIASM_X86
  if (kernels::available().back() >= Isa::avx512) {
    const auto& memory = peak::large();
    constexpr std::size_t part = std::size_t{16} << 20;
    const std::size_t parts = memory.size() / part - 1, share = part / ctx.threads() / 4096 * 4096;
    std::vector<double> least(parts, 1e30);
    for (int repeat = 0; repeat < 9; ++repeat)
      for (std::size_t i = 0; i < parts; ++i)
        least[i] = std::min(least[i], best(1, [&] {
                              ctx.parallel(ctx.threads(), 1, [&](std::size_t first, std::size_t last) {
                                for (std::size_t t = first; t < last; ++t) {
                                  const float sum = peak::read_streams(memory.data() + i * part + t * share, share);
                                  peak::keep(&sum);
                                }
                              });
                            }));
    return 1e-9 * static_cast<double>(share * ctx.threads() * parts) / std::accumulate(least.begin(), least.end(), 0.0);
  }
#endif
  return 0;
}

constexpr std::size_t width = 2048, hidden = 5632;

/// The four products of a layer: queries, keys and values; the output; gate and up; down.
struct Layer {
  Weight qkv, o, gate, up, down;
};

/// Random blocks under small scales, in panels, over and over until they are `total` bytes: more than any cache has.
struct Model {
  std::vector<Layer> layers;
  std::size_t bytes = 0;
  std::size_t one = 0;  // of a layer in its file
  double packing = 0;   // seconds of packing a layer

  Model(Context& ctx, DType type, std::size_t total) {
    const Shape of[] = {Shape{2560, width}, Shape{width, width}, Shape{hidden, width}, Shape{hidden, width}, Shape{width, hidden}};
    std::vector<std::byte> file;
    std::mt19937 engine(1);
    for (std::size_t count = bytes_of(type, of[2]); file.size() < count;) file.push_back(static_cast<std::byte>((engine() & 0x33) | 0x10));  // f16 scales of about 0.1
    std::vector<Weight> packed;
    for (const Shape& shape : of) {
      const Weight rows("w", type, shape, file.data(), {}, "random");
      packing += best(3, [&] { packed.push_back(pack(rows, ctx.pool().get())); });
      packed.erase(packed.end() - 3, packed.end() - 1);
      one += bytes_of(type, shape);
    }
    const auto pool = std::make_shared<MemoryPool>();  // huge pages
    while (bytes < total) {
      const auto copy = [&](const Weight& w) {
        const auto memory = std::make_shared<BasicTensor<std::byte>>(Shape{w.bytes()}, pool);
        std::memcpy(memory->data(), w.data(), w.bytes());
        bytes += w.bytes();
        return Weight("w", type, w.shape(), memory->data(), memory, "random", w.layout());
      };
      layers.push_back({copy(packed[0]), copy(packed[1]), copy(packed[2]), copy(packed[3]), copy(packed[4])});
    }
  }
  /// Seconds of all layers, for `tokens` tokens.
  double run(Context& ctx, std::size_t tokens, std::size_t count, int repeats) const {
    Tensor x = ctx.empty(Shape{tokens, width}), h = ctx.empty(Shape{tokens, hidden}), y = ctx.empty(Shape{tokens, 2560}), g = ctx.empty(Shape{tokens, hidden}),
           u = ctx.empty(Shape{tokens, hidden});
    for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 17) - 8;
    for (std::size_t i = 0; i < h.size(); ++i) h.data()[i] = static_cast<float>(i % 13) - 6;
    std::vector<double> least(count, 1e30);
    for (int repeat = 0; repeat < repeats; ++repeat)
      for (std::size_t i = 0; i < count; ++i) {
        const Layer& layer = layers[i];
        least[i] = std::min(least[i], best(1, [&] {
                              matmul(ctx, x.view(), layer.qkv, y.view());
                              matmul(ctx, x.view(), layer.o, y.view().column_slice(0, width));
                              const Product both[] = {{&layer.gate, g.view()}, {&layer.up, u.view()}};
                              matmul(ctx, x.view(), both);
                              matmul(ctx, h.view(), layer.down, y.view().column_slice(0, width));
                            }));
      }
    return std::accumulate(least.begin(), least.end(), 0.0);
  }
};

}  // namespace

int main(int argc, char** argv) {
  ContextOptions options;
  options.compute = Compute::bf16;
  Context ctx(options);
  options.compute = Compute::f32;
  Context exact(ctx.pool(), options);
  double tiles = 0;
#if CHIASM_X86
  if (ctx.isa() == "amx") tiles = peak::flops(Isa::amx, true) * static_cast<double>(ctx.threads());
#endif
  std::printf("%s, %zu threads; bf16 tiles at most %.0f GF/s\n", std::string(ctx.isa()).c_str(), ctx.threads(), tiles);
  std::printf("%-8s %7s %7s | GB/s of weights (share of memory's) at 1, 2, 4, 8, 16 tokens, and in f32 at 1, 4, 8, 16 | GF/s (share of tiles') at 32, 128, 512 tokens\n", "", "packing",
              "memory");
  for (auto k = static_cast<std::size_t>(DType::bf16); k < weight_kinds; ++k) {
    const auto type = static_cast<DType>(k);
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || name(type) == argv[i];
    if (!wanted) continue;
    const Model model(ctx, type, std::size_t{400} << 20);
    std::printf("%-8s %7.1f", std::string(name(type)).c_str(), is_block_format(type) ? 1e-9 * static_cast<double>(model.one) / model.packing : 0);
    const double memory = memory_rate(ctx);
    std::printf(" %7.1f |", memory);
    const auto rate = [&](Context& with, std::size_t tokens) {
      const double gb = 1e-9 * static_cast<double>(model.bytes) / model.run(with, tokens, model.layers.size(), 15);
      std::printf(" %5.1f (%3.0f %%)", gb, 100 * gb / memory);
      std::fflush(stdout);
    };
    for (const std::size_t tokens : {1u, 2u, 4u, 8u, 16u}) rate(ctx, tokens);
    std::printf(" f32:");
    for (const std::size_t tokens : {1u, 4u, 8u, 16u}) rate(exact, tokens);
    std::printf(" |");
    for (const std::size_t tokens : {32u, 128u, 512u}) {
      constexpr double weights = 2560.0 * width + 1.0 * width * width + 3.0 * width * hidden;
      const std::size_t layers = 1;
      const double flops = 2e-9 * weights * static_cast<double>(layers * tokens) / model.run(ctx, tokens, layers, 12);
      std::printf(" %5.0f", flops);
      if (tiles > 0) std::printf(" (%2.0f %%)", 100 * flops / tiles);
      std::fflush(stdout);
    }
    std::puts("");
  }
  return 0;
}
