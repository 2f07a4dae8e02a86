/// The choice of a tier: what is there, by name, by environment.
#include <chiasm/core/error.hpp>
#include <chiasm/kernels/dispatch.hpp>

#include "support/catch.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>

using namespace chiasm;

namespace {

struct Environment {  // restores CHIASM_ISA
  Environment() : before(std::getenv("CHIASM_ISA") ? std::getenv("CHIASM_ISA") : "") {}
  ~Environment() { before.empty() ? unsetenv("CHIASM_ISA") : setenv("CHIASM_ISA", before.c_str(), 1); }
  std::string before;
};

}  // namespace

TEST_CASE("scalar and portable are always there, every available tier is complete") {
  const std::vector<Isa> tiers = kernels::available();
  REQUIRE(tiers.size() >= 2);
  CHECK(tiers[0] == Isa::scalar);
  CHECK(tiers[1] == Isa::portable);
  for (const Isa isa : tiers) {
    const kernels::Table& t = kernels::table(isa);
    CHECK(t.isa == isa);
    for (const auto& compute : t.gemm)
      for (std::size_t kind = 0; kind < weight_kinds; ++kind) {
        const kernels::Gemm& gemm = compute[kind];
        CHECK((gemm.panel != 0 && gemm.step != 0 && gemm.packed_bytes && gemm.pack && gemm.run));
      }
    for (std::size_t kind = 0; kind < float_kinds; ++kind) CHECK((t.gemv[kind] && t.to_f32[kind] && t.from_f32[kind]));
    for (const kernels::Attention& attention : t.attention) CHECK((attention.run && attention.scratch_bytes && attention.rows));
    for (const auto& compute : t.gemv_tokens)
      for (const std::size_t tokens : compute) CHECK(tokens != 0);
    CHECK((t.softmax && t.layer_norm && t.rms_norm && t.activate && t.gated && t.add && t.mul && t.scale && t.axpy && t.dot &&
           t.argmax && t.rope));
  }
}

TEST_CASE("CHIASM_ISA lowers, names choose, the rest is an error that says what there is") {
  const Environment restore;
  unsetenv("CHIASM_ISA");
  const Isa best = kernels::available().back();
  CHECK(kernels::active().isa == best);
  CHECK(kernels::active("scalar").isa == Isa::scalar);
  CHECK(kernels::active(best).isa == best);
  setenv("CHIASM_ISA", "portable", 1);
  CHECK(kernels::active().isa == Isa::portable);
  CHECK(kernels::active(best).isa == std::min(best, Isa::portable));
  CHECK(kernels::active(Isa::scalar).isa == Isa::scalar);
  CHECK(kernels::active(name(best)).isa == best);
  setenv("CHIASM_ISA", "sse9", 1);
  CHECK_THROWS_AS(kernels::active(), ArgumentError);
  unsetenv("CHIASM_ISA");
  try {
    kernels::active("altivec");
    CHECK(false);
  } catch (const ArgumentError& error) {
    CHECK(std::string(error.what()).find("altivec") != std::string::npos);
    CHECK(std::string(error.what()).find("scalar, portable") != std::string::npos);
  }
  for (std::size_t i = 0; i < isa_count; ++i) {
    const std::vector<Isa> tiers = kernels::available();
    if (std::find(tiers.begin(), tiers.end(), static_cast<Isa>(i)) == tiers.end())
      CHECK_THROWS_AS(kernels::table(static_cast<Isa>(i)), ArgumentError);
  }
}
