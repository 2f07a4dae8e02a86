// How cost grows: with the prompt's length, the answer's, the pictures, the sequences of a batch, the threads, the model. One line of JSON for each measurement:
// seconds (the fastest run, and the median), and the most memory beyond the weights. growth.py runs this and draws the curves.
#include "models/shapes.hpp"

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/dispatch.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace {

using namespace chiasm;

/// A line of /proc/self/status, in bytes; 0 where there is none.
double status(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size() + 1, key + ":") == 0) return 1024 * std::stod(line.substr(key.size() + 1));
  return 0;
}

/// The most memory that was in use since, beyond what was in use then.
class Peak {
 public:
  Peak() {
#if defined(__GLIBC__)
    malloc_trim(0);  // what earlier work has freed would hide what this one takes
#endif
    std::ofstream("/proc/self/clear_refs") << 5;
    before_ = status("VmRSS");
  }
  double bytes() const { return std::max(0.0, status("VmHWM") - before_); }

 private:
  double before_;
};

struct Times {
  double best = 0, median = 0;
  std::size_t runs = 0;
};

/// Runs of `work` for about `seconds`, after one that does not count unless it took longer than that.
template <class Work>
Times measure(double seconds, Work work) {
  std::vector<double> runs;
  double total = 0;
  const auto run = [&] {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const double first = run();
  if (first > seconds) runs.push_back(first);
  while (runs.empty() || (total < seconds && first <= seconds && runs.size() < 200)) {
    runs.push_back(run());
    total += runs.back();
  }
  std::sort(runs.begin(), runs.end());
  return {runs.front(), runs[runs.size() / 2], runs.size()};
}

struct Settings {
  bool is_short = false;
  double seconds = 1;  // of each measurement
  std::shared_ptr<ThreadPool> pool = std::make_shared<ThreadPool>();
};

Context make_context(const std::shared_ptr<ThreadPool>& pool, Compute compute) {
  ContextOptions options;
  options.compute = compute;
  return Context(pool, options);
}

const char* text(Compute compute) { return compute == Compute::f32 ? "f32" : "bf16"; }

/// `units`: what the cost is divided by when it is drawn.
void print(const std::string& axis, const std::string& series, double x, double units, const Times& times, double bytes) {
  std::printf("{\"axis\": \"%s\", \"series\": \"%s\", \"x\": %g, \"units\": %g, \"seconds\": %.9g, \"median\": %.9g, \"runs\": %zu, \"bytes\": %.0f}\n", axis.c_str(),
              series.c_str(), x, units, times.best, times.median, times.runs, bytes);
  std::fflush(stdout);
}

std::unique_ptr<const Decoder> decoder(DecoderConfig c, DType weights, Compute compute) {
  c.rope.max_position_embeddings = 16384;
  return std::make_unique<const Decoder>(shapes::laid_out(random_decoder(c, weights, RandomWeights(1, shapes::period)), compute), c);
}

std::vector<TokenId> prompt(std::size_t length) {
  std::vector<TokenId> ids(length);
  for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 31000);
  return ids;
}

/// A cache that holds `length` positions.
KvCache filled(Context& ctx, const Decoder& lm, std::size_t length) {
  KvCache cache = lm.new_cache();
  const std::size_t width = lm.config().num_key_value_heads * lm.config().head_dim;
  Tensor past = ctx.empty(Shape{length, width});
  for (std::size_t i = 0; i < past.size(); ++i) past.data()[i] = static_cast<float>(i * 7919 % 1009) / 500.0f - 1.0f;
  for (std::size_t i = 0; i < cache.layers(); ++i) cache[i].append(ctx, past, past);
  return cache;
}

void read(Context& ctx, const Decoder& lm, std::span<const TokenId> ids, KvCache& cache) {
  cache.truncate(0);
  const Tensor hidden = lm.forward(ctx, lm.embed(ctx, ids), cache);
  (void)lm.logits(ctx, hidden.slice(hidden.rows() - 1, 1));
}

/// A step of each sequence, which then is as before.
void step(Context& ctx, const Decoder& lm, std::vector<KvCache>& caches) {
  std::vector<Sequence> batch;
  std::vector<TokenId> ids;
  for (KvCache& cache : caches) {
    batch.push_back({&cache, 1});
    ids.push_back(static_cast<TokenId>(7 + batch.size()));
  }
  const std::size_t length = caches[0].length();
  (void)lm.logits(ctx, lm.forward(ctx, lm.embed(ctx, ids), batch));
  for (KvCache& cache : caches) cache.truncate(length);
}

constexpr std::size_t layers = 4;  // of TinyLlama's 22, where their number changes nothing but the scale

/// The prompt's length: seconds and memory for a token of it.
void prefill(const Settings& set) {
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    const auto lm = decoder(shapes::llama_1b(layers), DType::bf16, compute);
    for (std::size_t length = 128; length <= (set.is_short ? 2048u : 8192u); length *= 2) {
      const Peak peak;
      Context ctx = make_context(set.pool, compute);
      KvCache cache = lm->new_cache();
      const std::vector<TokenId> ids = prompt(length);
      const Times times = measure(set.seconds, [&] { read(ctx, *lm, ids, cache); });
      print("prefill", text(compute), static_cast<double>(length), static_cast<double>(length), times, peak.bytes());
    }
  }
}

/// Positions before it: seconds for one more token, and the memory of all.
void decode(const Settings& set) {
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    const auto lm = decoder(shapes::llama_1b(layers), DType::bf16, compute);
    for (std::size_t length = 128; length <= 8192; length *= 2) {
      const Peak peak;
      Context ctx = make_context(set.pool, compute);
      std::vector<KvCache> caches(1);
      caches[0] = filled(ctx, *lm, length);
      const Times times = measure(set.seconds, [&] { step(ctx, *lm, caches); });
      print("decode", text(compute), static_cast<double>(length), 1, times, peak.bytes());
    }
  }
}

/// The answer's length: each 64 tokens of a long one, as they come.
void answer(const Settings& set) {
  const auto lm = decoder(shapes::llama_1b(layers), DType::bf16, Compute::f32);
  const Peak peak;
  Context ctx = make_context(set.pool, Compute::f32);
  KvCache cache = lm->new_cache();
  std::vector<double> steps;
  const TokenId id = 9;
  for (std::size_t t = 1; t <= (set.is_short ? 1024u : 4096u); ++t) {
    const auto begin = std::chrono::steady_clock::now();
    (void)lm->logits(ctx, lm->forward(ctx, lm->embed(ctx, std::span<const TokenId>(&id, 1)), cache));
    steps.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (t % 64 != 0) continue;
    std::sort(steps.begin(), steps.end());
    print("answer", "median of 64 steps", static_cast<double>(t), 1, {steps[32], steps[32], 64}, peak.bytes());
    print("answer", "longest of 64 steps", static_cast<double>(t), 1, {steps[63], steps[63], 64}, peak.bytes());
    steps.clear();
  }
}

/// Pictures of a prompt: a tower, a projector, and the language model that reads them with 32 words.
void images(const Settings& set) {
  const VitConfig c = shapes::vit_b_224();
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    const Vit vit(shapes::laid_out(shapes::random_vit(c, DType::bf16), compute), c);
    const Projector projector(shapes::laid_out(shapes::random_projector(c.hidden_size, 2048, DType::bf16), compute), c.hidden_size, 2048, Activation::gelu, true);
    const auto lm = decoder(shapes::llama_1b(layers), DType::bf16, compute);
    for (std::size_t count = 1; count <= (set.is_short ? 4u : 16u); count *= 2) {
      const Peak peak;
      Context ctx = make_context(set.pool, compute);
      Tensor pixels = ctx.empty(Shape{count, c.num_channels, c.image_size, c.image_size});
      for (std::size_t i = 0; i < pixels.size(); ++i) pixels.data()[i] = static_cast<float>(i * 7919 % 1009) / 250.0f - 2.0f;
      const auto see = [&] { return projector(ctx, vit(ctx, pixels)); };  // (N, 197, 2048)
      const Times tower = measure(set.seconds, see);
      print("images", std::string("tower, ") + text(compute), static_cast<double>(count), static_cast<double>(count), tower, peak.bytes());
      KvCache cache = lm->new_cache();
      const Times whole = measure(set.seconds, [&] {
        const Tensor seen = see();
        const Tensor words = lm->embed(ctx, prompt(32));
        Tensor all = ctx.empty(Shape{seen.size() / 2048 + 32, 2048});
        std::memcpy(all.data(), seen.data(), seen.bytes());
        std::memcpy(all.row(seen.size() / 2048), words.data(), words.bytes());
        cache.truncate(0);
        const Tensor hidden = lm->forward(ctx, all, cache);
        (void)lm->logits(ctx, hidden.slice(hidden.rows() - 1, 1));
      });
      print("images", std::string("to the first token, ") + text(compute), static_cast<double>(count), static_cast<double>(count), whole, peak.bytes());
    }
  }
}

/// Sequences that share a step; 256 positions each.
void batch(const Settings& set) {
  for (const auto& [weights, compute] : {std::pair(DType::f32, Compute::f32), std::pair(DType::bf16, Compute::f32), std::pair(DType::bf16, Compute::bf16)}) {
    const auto lm = decoder(shapes::llama_1b(layers), weights, compute);
    for (const std::size_t count : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u, 12u, 16u}) {
      if (set.is_short && count > 2 && count % 4 > 1) continue;
      const Peak peak;
      Context ctx = make_context(set.pool, compute);
      std::vector<KvCache> caches;
      for (std::size_t i = 0; i < count; ++i) caches.push_back(filled(ctx, *lm, 256));
      const Times times = measure(set.seconds, [&] { step(ctx, *lm, caches); });
      print("batch", "weights " + std::string(name(weights)) + ", " + text(compute), static_cast<double>(count), static_cast<double>(count), times, peak.bytes());
    }
  }
}

void threads(const Settings& set) {
  const auto lm = decoder(shapes::llama_1b(layers), DType::bf16, Compute::f32), rounding = decoder(shapes::llama_1b(layers), DType::bf16, Compute::bf16);
  const std::vector<TokenId> ids = prompt(512);
  for (std::size_t count = 1; count <= set.pool->size(); ++count) {
    const auto pool = std::make_shared<ThreadPool>(count);
    for (const Compute compute : {Compute::f32, Compute::bf16}) {
      const Peak peak;
      Context ctx = make_context(pool, compute);
      KvCache cache = lm->new_cache();
      const Times reads = measure(set.seconds, [&] { read(ctx, compute == Compute::f32 ? *lm : *rounding, ids, cache); });
      print("threads", std::string("prefill 512, ") + text(compute), static_cast<double>(count), 512, reads, peak.bytes());
    }
    const Peak peak;
    Context ctx = make_context(pool, Compute::f32);
    std::vector<KvCache> caches(1);
    caches[0] = filled(ctx, *lm, 256);
    const Times steps = measure(set.seconds, [&] { step(ctx, *lm, caches); });
    print("threads", "decode, f32", static_cast<double>(count), 1, steps, peak.bytes());
  }
}

/// Parameters, in billions. Of the two largest models 8 layers are measured, and the blocks' share of time and memory is scaled to all of them.
void sizes(const Settings& set) {
  struct Size {
    std::size_t hidden, intermediate, layers, heads, kv_heads, measured;
  };
  constexpr Size all[] = {
      {768, 2048, 12, 12, 12, 12}, {1024, 2816, 24, 16, 16, 24}, {2048, 5632, 22, 32, 4, 22}, {3200, 8640, 26, 32, 32, 8}, {4096, 11008, 32, 32, 32, 8}};
  for (const Size& size : all) {
    if (set.is_short && size.hidden > 1024) continue;
    DecoderConfig c = shapes::llama_1b(size.measured);
    c.hidden_size = size.hidden, c.intermediate_size = size.intermediate, c.num_attention_heads = size.heads, c.num_key_value_heads = size.kv_heads;
    c.head_dim = c.rope.dim = size.hidden / size.heads;
    DecoderConfig whole = c;
    whole.num_hidden_layers = size.layers;
    const double parameters = 1e-9 * (shapes::matrix_size(whole) + static_cast<double>(c.vocab_size * c.hidden_size));
    const double more = static_cast<double>(size.layers) / static_cast<double>(size.measured);
    for (const Compute compute : {Compute::f32, Compute::bf16}) {
      const auto lm = decoder(c, DType::bf16, compute);
      const Peak peak;
      Context ctx = make_context(set.pool, compute);
      KvCache cache = lm->new_cache();
      const std::vector<TokenId> ids = prompt(128);
      Times times = measure(set.seconds, [&] { read(ctx, *lm, ids, cache); });
      const Tensor hidden = lm->embed(ctx, prompt(1));
      const Times head = measure(set.seconds / 4, [&] { (void)lm->logits(ctx, hidden); });
      times.best = head.best + (times.best - head.best) * more, times.median = head.median + (times.median - head.median) * more;
      print("size", std::string("prefill 128, ") + text(compute), parameters, 128 * parameters, times, peak.bytes() * more);
      if (compute == Compute::bf16) continue;
      std::vector<KvCache> caches(1);
      caches[0] = filled(ctx, *lm, 128);
      Times steps = measure(set.seconds, [&] { step(ctx, *lm, caches); });
      steps.best = head.best + (steps.best - head.best) * more, steps.median = head.median + (steps.median - head.median) * more;
      print("size", "decode, f32", parameters, parameters, steps, peak.bytes() * more);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  Settings set;
  std::vector<std::string> wanted;
  constexpr std::pair<const char*, void (*)(const Settings&)> axes[] = {{"prefill", prefill}, {"decode", decode},   {"answer", answer}, {"images", images},
                                                                        {"batch", batch},     {"threads", threads}, {"size", sizes}};
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--short") {
      set.is_short = true;
      set.seconds = 0.3;
    } else if (std::any_of(std::begin(axes), std::end(axes), [&](const auto& axis) { return argument == axis.first; })) {
      wanted.push_back(argument);
    } else {
      std::fprintf(stderr, "growth_bench [--short] [prefill] [decode] [answer] [images] [batch] [threads] [size]\n");
      return 2;
    }
  }
  {
    const Context ctx(set.pool, {});
    std::printf("{\"isa\": \"%s\", \"threads\": %zu}\n", std::string(ctx.isa()).c_str(), ctx.threads());
  }
  for (const auto& [axis, run] : axes)
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), axis) != wanted.end()) run(set);
}
