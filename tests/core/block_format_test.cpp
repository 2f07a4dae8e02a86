#include <chiasm/core/block_format.hpp>
#include <chiasm/core/weight.hpp>
#include <chiasm/io/safetensors.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"

#include <algorithm>
#include <cstring>

using namespace chiasm;

namespace {

/// Those of files.
std::vector<DType> block_formats() {
  std::vector<DType> formats;
  for (std::size_t i = 0; i < weight_kinds; ++i)
    if (is_block_format(static_cast<DType>(i)) && static_cast<DType>(i) != DType::q8_row) formats.push_back(static_cast<DType>(i));
  return formats;
}

/// The reference's blocks and values, as they are in the file.
class Golden {
 public:
  const Weight& operator()(DType type, const std::string& what) const {
    const std::string wanted = std::string(name(type)) + "." + what;
    return *std::find_if(tensors_.begin(), tensors_.end(), [&](const Weight& tensor) { return tensor.name() == wanted; });
  }

 private:
  std::vector<Weight> tensors_ = Safetensors::parse(FileMap::open(test_data("blocks/blocks.safetensors"))).tensors;
};

bool same_bits(std::span<const float> a, std::span<const float> b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0; }

}  // namespace

TEST_CASE("every block format, to the bit as the reference has it") {
  const Golden golden;
  CHECK(block_formats().size() == 12);
  for (const DType type : block_formats()) {
    INFO(name(type));
    const Weight blocks = golden(type, "blocks");
    const Tensor values = golden(type, "values").to_f32();
    const std::size_t count = blocks.shape()[0], size = block_size(type);
    REQUIRE(blocks.shape()[1] == size_of(type));
    REQUIRE(values.shape() == (Shape{count, size}));

    std::vector<float> all(count * size);
    dequantize(type, blocks.data(), all.data(), all.size());
    CHECK(same_bits(all, values.values()));

    // The same as a weight: rows of one block, and all blocks in one row.
    const Weight rows(std::string(name(type)), type, Shape{count, size}, blocks.data(), nullptr, "golden");
    CHECK(rows.bytes() == blocks.bytes());
    CHECK(same_bits(rows.to_f32().values(), values.values()));
    CHECK(same_bits(Weight("row", type, Shape{count * size}, blocks.data(), nullptr, "golden").to_f32().values(), values.values()));
    CHECK(same_bits(rows.slice(3, 2).to_f32().values(), values.values().subspan(3 * size, 2 * size)));
    CHECK(same_bits(rows.to(DType::f32).to_f32().values(), values.values()));
  }
}

TEST_CASE("a last block may be wanted in part") {
  const Golden golden;
  for (const DType type : block_formats()) {
    INFO(name(type));
    const Weight blocks = golden(type, "blocks");
    const Tensor values = golden(type, "values").to_f32();
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{17}, block_size(type) - 1, block_size(type) + 5}) {
      INFO(count);
      std::vector<float> some(count + 1, 42.0f);
      dequantize(type, blocks.data(), some.data(), count);
      CHECK(same_bits(std::span(some).first(count), values.values().first(count)));
      CHECK(some.back() == 42.0f);
    }
    CHECK(row_bytes(type, block_size(type) + 1) == 2 * size_of(type));
  }
}

TEST_CASE("rows change places with their bits as they are") {
  const Golden golden;
  const Weight blocks = golden(DType::q6_k, "blocks");
  const std::size_t count = blocks.shape()[0];
  const Weight rows("rows", DType::q6_k, Shape{count, 256}, blocks.data(), nullptr, "golden");
  std::vector<std::uint32_t> order(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = static_cast<std::uint32_t>((5 * i + 3) % count);
  const Weight gathered = rows.gather(order);
  for (std::size_t i = 0; i < count; ++i) CHECK(std::memcmp(gathered.data() + i * 210, blocks.data() + order[i] * 210, 210) == 0);
  CHECK(gathered.shape() == rows.shape());
  CHECK(gathered.name() == "rows");
  order[0] = static_cast<std::uint32_t>(count);
  CHECK_THROWS_AS(rows.gather(order), ShapeError);
  order.resize(count - 1);
  CHECK_THROWS_AS(rows.gather(order), ShapeError);
  CHECK_THROWS_AS(Weight("row", DType::q6_k, Shape{256}, blocks.data(), nullptr, "golden").gather(std::vector<std::uint32_t>(256)), ShapeError);
  CHECK_THROWS_AS(Weight("row", DType::q6_k, Shape{512}, blocks.data(), nullptr, "golden").slice(0, 256), UnsupportedError);
}
