/// fwd.hpp first, then everything: each of its names is the one that the library defines.
#include <chiasm/fwd.hpp>

namespace {

// What a header of one's own would say with names alone.
struct Robot {
  const chiasm::Pipeline* pipeline = nullptr;
  chiasm::Context* context = nullptr;
  chiasm::DType dtype{};
  chiasm::Tensor (*see)(chiasm::Context&, const chiasm::Image&, chiasm::View, chiasm::MutView) = nullptr;
  chiasm::TokenId last = 0;
};

}  // namespace

#include <chiasm/chiasm.hpp>

#include "support/catch.hpp"

#include "support/paths.hpp"

#include <fstream>
#include <regex>
#include <string>
#include <type_traits>

using namespace chiasm;

namespace {

// A name that the library does not define in this namespace would be incomplete here, and one of both an enum and a class ambiguous.
template <class... Types>
constexpr bool complete = ((sizeof(Types) > 0) && ...);

}  // namespace
