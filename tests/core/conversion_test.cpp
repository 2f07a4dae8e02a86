#include <chiasm/core/conversion.hpp>
#include <chiasm/core/quantize.hpp>
#include <chiasm/core/weights.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

#include <thread>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

using namespace chiasm;

namespace {

Weight random_weight(const std::string& name, Shape shape, DType dtype, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  Tensor values(shape);
  for (float& value : values.values()) value = normal(random);
  const auto owner = std::make_shared<Tensor>(std::move(values));
  return Weight(name, DType::f32, shape, reinterpret_cast<const std::byte*>(owner->data()), owner, "model.safetensors").to(dtype);
}

std::vector<float> numbers(const Weight& weight) {
  const Tensor tensor = weight.to_f32();
  return {tensor.values().begin(), tensor.values().end()};
}

/// Row by row with quantize() and dequantize(), which have tests of their own.
std::vector<float> quantised(const Weight& weight, DType type) {
  const std::size_t columns = weight.shape().columns();
  std::vector<float> x = numbers(weight), back(x.size());
  std::vector<std::byte> row(row_bytes(type, columns));
  for (std::size_t i = 0; i < x.size(); i += columns) {
    quantize(type, &x[i], columns, row.data());
    dequantize(type, row.data(), &back[i], columns);
  }
  return back;
}

class Remembered final : public ConvertedTensors {
 public:
  std::optional<Weight> find(std::string_view name, const Weight&, DType type, Layout layout) override {
    const auto known = tensors.find(std::string(name));
    if (known == tensors.end() || known->second.dtype() != type || known->second.layout() != layout) return std::nullopt;
    ++found;
    return known->second;
  }
  void add(std::string_view name, const Weight&, const Weight& converted) override { tensors.emplace(std::string(name), converted); }
  std::map<std::string, Weight> tensors;
  int found = 0;
};

}  // namespace

TEST_CASE("what dtype a tensor comes in") {
  const auto type_of = [](WeightKind kind, Shape shape, DType stored, WeightUse use = WeightUse::product) {
    return converted_type(Weight("w", stored, shape, nullptr, nullptr, "f"), kind, use);
  };
  const DType four = type_of(WeightKind::q4, {64, 64}, DType::f32);
  CHECK(can_quantize(four));
  CHECK(size_of(four) == 18);
  for (const DType stored : {DType::f32, DType::f16, DType::bf16, DType::f64, DType::f8_e4m3}) {
    const DType kept = stored == DType::f32 || stored == DType::f16 || stored == DType::bf16 ? stored : DType::f32;
    for (const WeightKind kind : {WeightKind::q8, WeightKind::q4, WeightKind::i8}) {
      const DType blocks = kind == WeightKind::q8 ? DType::q8_0 : kind == WeightKind::i8 ? DType::q8_row : four;
      CHECK(type_of(kind, {64, 64}, stored) == blocks);
      CHECK(type_of(kind, {7, 33}, stored) == blocks);
      CHECK(type_of(kind, {64, 31}, stored) == DType::bf16);
      CHECK(type_of(kind, {64, 3, 32, 32}, stored) == DType::bf16);
      CHECK(type_of(kind, {64}, stored) == DType::f32);
      CHECK(type_of(kind, {}, stored) == DType::f32);
      CHECK(type_of(kind, {64, 64}, stored, WeightUse::rows) == kept);
    }
    CHECK(type_of(WeightKind::keep, {64, 64}, stored) == kept);
    CHECK(type_of(WeightKind::keep, {64}, stored) == kept);
    CHECK(type_of(WeightKind::f32, {64, 64}, stored, WeightUse::rows) == DType::f32);
    CHECK(type_of(WeightKind::bf16, {64, 64}, stored, WeightUse::rows) == DType::bf16);
    CHECK(type_of(WeightKind::bf16, {64}, stored) == DType::f32);
  }
  for (const DType stored : blocks::types) {
    for (const WeightKind kind : {WeightKind::keep, WeightKind::q8, WeightKind::q4})
      for (const WeightUse use : {WeightUse::product, WeightUse::rows}) CHECK(type_of(kind, {64, 256}, stored, use) == stored);
    CHECK(type_of(WeightKind::f32, {64, 256}, stored) == DType::f32);
    CHECK(type_of(WeightKind::bf16, {64, 256}, stored) == DType::bf16);
    CHECK(type_of(WeightKind::i8, {64, 256}, stored) == DType::q8_row);
    CHECK(type_of(WeightKind::i8, {64, 256}, stored, WeightUse::rows) == stored);
  }
}

TEST_CASE("a conversion is the same in rows and in panels, on one thread and on many") {
  ThreadPool threads(3);
  for (const DType type : {DType::q8_0, DType::q4_0, DType::iq4_nl, DType::q8_row, DType::bf16, DType::f16, DType::f32})
    for (const DType stored : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::f8_e4m3, DType::q6_k})
      for (const Shape& shape : {Shape{1, 1}, Shape{16, 32}, Shape{17, 33}, Shape{40, 5000}, Shape{300, 96}, Shape{0, 64}}) {
        if (stored == DType::q6_k && shape.size() == 0) continue;
        Weight weight = stored == DType::q6_k ? blocks::random(stored, shape[0], shape[1], 3) : random_weight("w", shape, DType::f32);
        std::vector<std::byte> bytes(shape.size() * size_of(stored));
        if (stored == DType::f16 || stored == DType::bf16) weight = weight.to(stored);
        if (stored == DType::f64) {
          const std::vector<float> values = numbers(weight);
          for (std::size_t i = 0; i < values.size(); ++i) {
            const double value = static_cast<double>(values[i]);
            std::memcpy(&bytes[8 * i], &value, 8);
          }
        }
        if (stored == DType::f8_e4m3)
          for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 % 127);
        if (stored == DType::f64 || stored == DType::f8_e4m3) weight = Weight("w", stored, shape, bytes.data(), nullptr, "f");
        INFO(weight.describe() << " to " << name(type));
        const std::vector<float> want = is_block_format(type) ? quantised(weight, type) : numbers(stored == type ? weight : random_weight("", {0}, DType::f32));
        for (const Layout layout : {Layout::rows, Layout::panels})
          for (ThreadPool* const pool : {static_cast<ThreadPool*>(nullptr), &threads}) {
            const Weight converted = convert(weight, type, layout, pool);
            CHECK(converted.dtype() == type);
            CHECK(converted.shape() == shape);
            CHECK(converted.name() == weight.name());
            CHECK(converted.layout() == (has_panels(type) ? layout : Layout::rows));
            if (is_block_format(type) || stored == type) CHECK(numbers(converted) == want);
            else CHECK(numbers(converted) == numbers(type == DType::f32 ? weight : weight.to(DType::f32).to(type)));
          }
      }
}

TEST_CASE("what cannot be converted") {
  const Weight flags("flags", DType::boolean, {4, 64}, nullptr, nullptr, "f");
  CHECK_THROWS_AS(convert(flags, DType::q8_0), UnsupportedError);
  CHECK_THROWS_AS(convert(flags, DType::f32), UnsupportedError);
  CHECK_THROWS_AS(convert(random_weight("w", {4, 256}, DType::f32), DType::q6_k), UnsupportedError);
  CHECK_THROWS_AS(convert(random_weight("w", {4, 256}, DType::f32), DType::i8), UnsupportedError);
}

TEST_CASE("a tree quantises what products take, says how far it is, and can be stopped") {
  const std::vector<Weight> tensors = {random_weight("a.weight", {40, 64}, DType::bf16, 1), random_weight("b.weight", {20, 96}, DType::f32, 2),
                                       random_weight("table.weight", {50, 64}, DType::bf16, 3), random_weight("norm.weight", {64}, DType::bf16, 4)};
  std::vector<std::string> progress;
  Conversion how;
  how.kind = WeightKind::q4;
  how.threads = std::make_shared<ThreadPool>(2);
  how.on_progress = [&](std::string_view tensor, std::size_t done, std::size_t total) {
    progress.push_back(std::string(tensor) + " " + std::to_string(done) + "/" + std::to_string(total));
  };
  const auto before = std::make_shared<Remembered>();
  how.before = before;
  const Weights w = Weights(tensors, "folder").converting(how);
  const DType four = converted_type(tensors[0], WeightKind::q4);

  const Weight a = w.packed("a.weight", Shape{40, 64});
  CHECK(a.dtype() == four);
  CHECK(a.layout() == Layout::panels);
  CHECK(numbers(a) == quantised(tensors[0], four));
  CHECK(w.stored("a.weight").data() == tensors[0].data());
  CHECK_THROWS_AS(w.stored("a.weight", Shape{40, 65}), WeightError);
  const Weight table = w.table("table.weight", Shape{50, 64});
  CHECK(table.data() == tensors[2].data());
  CHECK_THROWS_AS(w.table("table.weight", Shape{50, 65}), WeightError);
  const Weight tied = w.converted(table);
  CHECK(tied.dtype() == four);
  CHECK(numbers(tied) == quantised(tensors[2], four));
  CHECK(w.get("norm.weight").dtype() == DType::f32);
  const Weights other = w.renamed([](std::string_view name) { return "other." + std::string(name); });
  CHECK((other / "other").packed("b.weight", Shape{20, 96}).dtype() == four);
  CHECK(progress == std::vector<std::string>{"a.weight 1/3", "table.weight 2/3", "b.weight 3/3"});
  CHECK(before->tensors.size() == 3);
  CHECK(before->tensors.count("other.b.weight") == 1);

  // What has been converted before is not converted again, but counts.
  CHECK(w.packed("a.weight", Shape{40, 64}).data() == a.data());
  CHECK(before->found == 1);
  const Weight rows = w.get("a.weight");
  CHECK(rows.layout() == Layout::rows);
  CHECK(numbers(rows) == numbers(a));

  how.before = nullptr;
  how.on_progress = {};
  how.cancel.cancel();
  CHECK_THROWS_AS(Weights(tensors, "folder").converting(how).get("a.weight"), Cancelled);
  CHECK(Weights(tensors, "folder").converting(how).table("table.weight", Shape{50, 64}).data() == tensors[2].data());
}

TEST_CASE("a tree lays out bf16 in panels for products, not for tables") {
  const std::vector<Weight> tensors = {random_weight("a.weight", {40, 64}, DType::bf16, 1), random_weight("b.weight", {20, 96}, DType::f32, 2),
                                       random_weight("table.weight", {50, 64}, DType::bf16, 3), random_weight("conv.weight", {8, 3, 4, 4}, DType::bf16, 4)};
  for (const WeightKind kind : {WeightKind::keep, WeightKind::bf16}) {
    const Weights w = Weights(tensors, "folder").converting({.kind = kind, .bf16_panels = true});
    const Weight a = w.packed("a.weight", Shape{40, 64}), b = w.packed("b.weight", Shape{20, 96});
    CHECK(a.layout() == Layout::panels);
    CHECK(numbers(a) == numbers(tensors[0]));
    CHECK(b.layout() == (kind == WeightKind::bf16 ? Layout::panels : Layout::rows));
    CHECK(numbers(b) == numbers(kind == WeightKind::bf16 ? tensors[1].to(DType::bf16) : tensors[1]));
    CHECK(w.get("a.weight").data() == tensors[0].data());
    CHECK(w.get("conv.weight").layout() == Layout::rows);
    const Weight table = w.table("table.weight", Shape{50, 64});
    CHECK(table.data() == tensors[2].data());
    CHECK(w.converted(table).data() == table.data());  // tied: there once
  }
  CHECK(Weights(tensors, "folder").packed("a.weight", Shape{40, 64}).data() == tensors[0].data());
}

TEST_CASE("a conversion of a large matrix stops in its middle") {
  const Weight large = random_weight("w", {4096, 512}, DType::bf16);
  ThreadPool threads(2);
  CancelToken cancel;
  std::thread other([&] { cancel.cancel(); });
  Weight converted;
  try {
    converted = convert(large, DType::q8_0, Layout::panels, &threads, cancel);
  } catch (const Cancelled&) {
  }
  other.join();
  if (!converted.empty()) CHECK(numbers(converted) == quantised(large, DType::q8_0));
  CHECK_THROWS_AS(convert(large, DType::q8_0, Layout::panels, &threads, cancel), Cancelled);
}

TEST_CASE("rows in an order are converted in that order") {
  ThreadPool threads(3);
  const Weight weight = random_weight("w", Shape{300, 96}, DType::bf16), of_blocks = blocks::random(DType::q4_0, 300, 96, 3);
  std::vector<std::uint32_t> order(300);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i * 7 % order.size());
  for (const Weight* const stored : {&weight, &of_blocks})
    for (const DType type : {DType::q4_0, DType::iq4_nl, DType::bf16, DType::f32})
      for (const Layout layout : {Layout::rows, Layout::panels}) {
        const Weight ordered = convert(*stored, type, layout, &threads, {}, &order), gathered = convert(stored->gather(order), type, layout);
        CHECK(ordered.layout() == gathered.layout());
        CHECK(std::memcmp(ordered.data(), gathered.data(), gathered.bytes()) == 0);
      }
}
