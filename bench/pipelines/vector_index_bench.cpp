// Search among 100,000 vectors of 512 (CLIP ViT-B's): everywhere, one query and 64 at once, and in a graph by hnswlib. Queries per second; for one query the
// share of the memory's rate, which is the limit there; for the graph also its recall@10. CHIASM_BENCH_VECTORS sets another number.
#include "models/measure.hpp"

#include <chiasm/pipelines/vector_index.hpp>
#ifdef CHIASM_HAS_HNSWLIB
#include <chiasm/pipelines/hnsw_index.hpp>
#endif

#include <cmath>
#include <cstdlib>
#include <random>

namespace {

using namespace chiasm;

constexpr std::size_t dim = 512, k = 10, queries_at_once = 64;

std::size_t vectors() {
  static const char* const wanted = std::getenv("CHIASM_BENCH_VECTORS");
  static const std::size_t count = wanted == nullptr ? 100'000 : static_cast<std::size_t>(std::strtoull(wanted, nullptr, 10));
  return count;
}

/// Rows of length 1 around 1000 centres: embeddings of pictures come in groups, too.
Tensor rows(std::size_t count, unsigned seed) {
  static const std::vector<float> centres = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(1000 * dim);
    for (float& x : values) x = normal(random);
    return values;
  }();
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Tensor x(Shape{count, dim});
  for (std::size_t i = 0; i < count; ++i) {
    const float* const centre = centres.data() + random() % 1000 * dim;
    float squares = 0;
    for (std::size_t d = 0; d < dim; ++d) {
      x.row(i)[d] = centre[d] + normal(random);
      squares += x.row(i)[d] * x.row(i)[d];
    }
    for (std::size_t d = 0; d < dim; ++d) x.row(i)[d] /= std::sqrt(squares);
  }
  return x;
}

const FlatIndex& flat() {
  static const FlatIndex index = [] {
    FlatIndex made(dim);
    const Tensor x = rows(vectors(), 2);
    for (std::size_t i = 0; i < x.rows(); ++i) made.put(i, x.view()[i]);
    return made;
  }();
  return index;
}

void search(benchmark::State& state, const std::string& name, const VectorIndex& index, std::size_t count, bool reads_all) {
  Context& ctx = measure::context(Compute::f32);
  const Tensor queries = rows(count, 3);
  const double seconds = measure::run(state, name, [&] { benchmark::DoNotOptimize(index.search(ctx, queries, k).data()); });
  measure::add_machine(state, ctx);
  state.counters["queries/s"] = static_cast<double>(count) / seconds;
  const double bytes = static_cast<double>(index.size() * dim * sizeof(float));
  if (reads_all && count == 1) measure::add_bytes(state, ctx, bytes, seconds);
  if (reads_all && count > 1) measure::add_flops(state, ctx, 2 * static_cast<double>(count) * bytes / sizeof(float), seconds);
}

void exact(benchmark::State& state, const std::string& name, std::size_t count) { search(state, name, flat(), count, true); }

#ifdef CHIASM_HAS_HNSWLIB
void graph(benchmark::State& state, const std::string& name, std::size_t count) {
  Context& ctx = measure::context(Compute::f32);
  static double build_seconds = 0;
  static const HnswIndex& index = [&]() -> const HnswIndex& {
    static HnswIndex made(dim);
    const auto begin = std::chrono::steady_clock::now();
    made.follow(ctx, flat());
    build_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return made;
  }();
  search(state, name, index, count, false);
  const Tensor queries = rows(200, 4);
  const auto expected = flat().search(ctx, queries, k), found = index.search(ctx, queries, k);
  std::size_t right = 0;
  for (std::size_t q = 0; q < expected.size(); ++q)
    for (const Hit& hit : expected[q]) right += std::any_of(found[q].begin(), found[q].end(), [&](const Hit& other) { return other.id == hit.id; });
  state.counters["recall@10"] = static_cast<double>(right) / static_cast<double>(expected.size() * k);
  state.counters["build_s"] = build_seconds;
}
#endif

const bool registered = [] {
  const auto add = [](const std::string& work, void (*run)(benchmark::State&, const std::string&, std::size_t)) {
    for (const std::size_t count : {std::size_t{1}, queries_at_once}) {
      const std::string name = work + "/queries:" + std::to_string(count);
      benchmark::RegisterBenchmark(name.c_str(), run, name, count)->UseRealTime()->MinTime(measure::min_seconds)->Unit(benchmark::kMillisecond);
    }
  };
  add("flat", exact);
#ifdef CHIASM_HAS_HNSWLIB
  add("hnsw", graph);
#endif
  return true;
}();

}  // namespace
