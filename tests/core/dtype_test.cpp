#include <chiasm/core/dtype.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <limits>

using namespace chiasm;

namespace {

/// IEEE 754 by its definition, in double.
double value_of(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const auto fraction = static_cast<double>(bits & ((1u << fraction_bits) - 1));
  const double sign = bits >> (exponent_bits + fraction_bits) ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(1 + std::ldexp(fraction, -fraction_bits), exponent - bias);
}

/// All values there and back, and the floats around each midpoint between neighbours to the nearer one, ties to even.
template <class Half>
void check_all(int exponent_bits, int fraction_bits) {
  std::size_t wrong = 0;
  const std::uint32_t infinity = ((1u << exponent_bits) - 1) << fraction_bits;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<std::uint16_t>(bits)};
    const double expected = value_of(bits, exponent_bits, fraction_bits);
    const auto value = static_cast<float>(half);
    if (std::isnan(expected)) {
      wrong += !std::isnan(value) || !std::isnan(static_cast<float>(Half::from(value)));
      continue;
    }
    wrong += static_cast<double>(value) != expected || std::signbit(value) != std::signbit(expected) || Half::from(value).bits != bits;
    if ((bits & 0x7fff) >= infinity) continue;
    const auto above = static_cast<std::uint16_t>(bits + 1);  // away from zero; after the largest finite comes infinity
    const double next = (above & 0x7fff) == infinity ? expected + (expected - value_of(bits - 1, exponent_bits, fraction_bits))
                                                     : value_of(above, exponent_bits, fraction_bits);
    const auto middle = static_cast<float>((expected + next) / 2);  // exact: a float has more bits than either
    const std::uint16_t even = bits % 2 == 0 ? static_cast<std::uint16_t>(bits) : above;
    wrong += Half::from(middle).bits != even;
    wrong += Half::from(std::nextafter(middle, static_cast<float>(expected))).bits != bits;
    wrong += Half::from(std::nextafter(middle, static_cast<float>(next))).bits != above;
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("every f16 value, and rounding to the nearest, ties to even") { check_all<f16>(5, 10); }

TEST_CASE("every bf16 value, and rounding to the nearest, ties to even") { check_all<bf16>(8, 7); }

TEST_CASE("values beyond the range become infinite, NaN stays NaN") {
  CHECK(f16::from(65520.0f).bits == 0x7c00);
  CHECK(f16::from(-1e30f).bits == 0xfc00);
  CHECK(f16::from(1e-30f).bits == 0);
  CHECK(f16::from(-1e-30f).bits == 0x8000);
  CHECK(bf16::from(std::numeric_limits<float>::max()).bits == 0x7f80);
  // A NaN whose upper half alone would read as infinity.
  CHECK(std::isnan(static_cast<float>(bf16::from(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(static_cast<float>(f16::from(std::bit_cast<float>(0xff800001u)))));
}

TEST_CASE("conversions are constant expressions") {
  static_assert(bf16::from(1.0f).bits == 0x3f80);
  static_assert(static_cast<float>(bf16{0xc000}) == -2.0f);
  static_assert(f16::from(1.0f).bits == 0x3c00);
  static_assert(static_cast<float>(f16{0x3555}) > 0.333f);
}

TEST_CASE("names and sizes") {
  CHECK(name(DType::bf16) == "bf16");
  CHECK(name(DType::f8_e8m0) == "f8_e8m0");
  CHECK(name(DType::boolean) == "bool");
  CHECK(size_of(DType::f64) == 8);
  CHECK(size_of(DType::u32) == 4);
  CHECK(size_of(DType::f16) == 2);
  CHECK(size_of(DType::f8_e5m2) == 1);
  CHECK(size_of(DType::boolean) == 1);
}
