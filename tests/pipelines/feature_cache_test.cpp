// FeatureCache: what is encoded once, and what is not.
#include "support/catch.hpp"

#include <chiasm/chiasm.hpp>

namespace {

chiasm::Image picture(int width, int height, std::uint8_t grey) {
  return chiasm::Image(width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height) * 3, grey));
}

/// Encodes a picture to 4 rows of its first byte, and counts.
struct Encoder {
  chiasm::Context ctx;
  chiasm::FeatureCache cache;
  int calls = 0;

  explicit Encoder(std::size_t bytes, chiasm::ContextOptions options = {}) : ctx(std::move(options)), cache(bytes) {}
  chiasm::Features operator()(const chiasm::Image& image) { return (*this)(ctx, image); }
  chiasm::Features operator()(chiasm::Context& with, const chiasm::Image& image) {
    return cache.get(with, image, [&] {
      ++calls;
      chiasm::Tensor rows = with.empty(chiasm::Shape{4, 8});
      for (float& value : rows.values()) value = image.pixels()[0];
      return rows;
    });
  }
};

constexpr std::size_t entry = 4 * 8 * sizeof(float);

}  // namespace

TEST_CASE("a picture of the same pixels is encoded once") {
  Encoder encode(10 * entry);
  const chiasm::Features first = encode(picture(6, 4, 7)), again = encode(picture(6, 4, 7));
  CHECK(encode.calls == 1);
  CHECK_FALSE(first.reused);
  CHECK(again.reused);
  CHECK(again.content == first.content);
  CHECK(again.rows->values()[31] == 7.0f);

  SECTION("another size, another pixel, a transparent colour, an alpha channel, a palette make another picture") {
    chiasm::Image changed = picture(6, 4, 7), transparent = picture(6, 4, 7), veiled = picture(6, 4, 7), indexed = picture(6, 4, 7);
    changed.pixels().back() = 8;
    transparent.set_transparent(std::array<std::uint8_t, 3>{7, 7, 7});
    veiled.set_alpha(std::vector<std::uint8_t>(24, 9));
    indexed.set_indexed(true);
    for (const chiasm::Image& other : {picture(4, 6, 7), changed, transparent, veiled, indexed}) {
      CHECK_FALSE(encode(other).reused);
      CHECK_FALSE(encode(other).content == first.content);
    }
    CHECK(encode.calls == 6);
  }
  SECTION("contexts of another precision or other kernels share nothing") {
    chiasm::ContextOptions rounded, scalar;
    rounded.compute = chiasm::Compute::bf16;
    scalar.isa = "scalar";
    chiasm::Context bf16(rounded), slow(scalar);
    CHECK_FALSE(encode(bf16, picture(6, 4, 7)).reused);
    CHECK(encode(slow, picture(6, 4, 7)).reused == (encode.ctx.kernels().isa == chiasm::Isa::scalar));  // where CHIASM_ISA allows no other
  }
  SECTION("who observes, sees everything computed") {
    chiasm::ContextOptions observing;
    observing.on_tensor = [](std::string_view, chiasm::View) {};
    chiasm::Context observed(observing);
    CHECK_FALSE(encode(observed, picture(6, 4, 7)).reused);
    CHECK(encode.calls == 2);
    CHECK(encode.cache.bytes() == entry);  // and does not keep it twice
  }
  SECTION("clear() forgets") {
    encode.cache.clear();
    CHECK(encode.cache.bytes() == 0);
    CHECK_FALSE(encode(picture(6, 4, 7)).reused);
  }
}

TEST_CASE("the least recently used picture goes first, and what is too large is not kept") {
  Encoder encode(2 * entry);
  encode(picture(2, 2, 1));
  encode(picture(2, 2, 2));
  CHECK(encode(picture(2, 2, 1)).reused);
  const chiasm::Features third = encode(picture(2, 2, 3));  // 2 goes
  CHECK(encode.cache.bytes() == 2 * entry);
  CHECK(encode(picture(2, 2, 1)).reused);
  CHECK_FALSE(encode(picture(2, 2, 2)).reused);  // 3 goes
  CHECK(third.rows->values()[0] == 3.0f);        // who has it, keeps it

  Encoder small(entry - 1), none(0);
  for (Encoder* full : {&small, &none}) {
    (*full)(picture(2, 2, 1));
    CHECK_FALSE((*full)(picture(2, 2, 1)).reused);
    CHECK(full->cache.bytes() == 0);
  }
}

TEST_CASE("an encoder that throws leaves the cache as it was") {
  Encoder encode(2 * entry);
  CHECK_THROWS_AS(encode.cache.get(encode.ctx, picture(2, 2, 1), []() -> chiasm::Tensor { throw chiasm::Cancelled(); }), chiasm::Cancelled);
  CHECK_FALSE(encode(picture(2, 2, 1)).reused);
  CHECK(encode(picture(2, 2, 1)).reused);
}
