// SipHash-2-4 of 128 bits against its authors' vectors (https://github.com/veorq/SipHash), and what a hash must do.
#include "support/catch.hpp"

#include <chiasm/core/content_hash.hpp>

#include <array>
#include <set>
#include <vector>

namespace {

std::vector<std::byte> counting(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i);
  return bytes;
}

}  // namespace

TEST_CASE("SipHash-2-4-128 gives the published digests") {
  const chiasm::ContentHash<2, 4>::Key key{0x0706050403020100, 0x0f0e0d0c0b0a0908};
  const auto of = [&](std::size_t count) { return (chiasm::ContentHash<2, 4>(key) << counting(count)).digest(); };
  CHECK(of(0) == chiasm::Digest{0xe6a825ba047f81a3, 0x930255c71472f66d});
  CHECK(of(1) == chiasm::Digest{0x44af996bd8c187da, 0x45fc229b11597634});
}

TEST_CASE("a digest depends on the content and not on how it came") {
  const std::vector<std::byte> bytes = counting(100);
  const std::span<const std::byte> all = bytes;
  const chiasm::ContentHash<>::Key key{1, 2};
  const chiasm::Digest whole = (chiasm::ContentHash<>(key) << all).digest();
  for (std::size_t cut = 0; cut <= 100; ++cut) CHECK((chiasm::ContentHash<>(key) << all.first(cut) << all.subspan(cut)).digest() == whole);

  std::set<std::uint64_t> seen;
  for (std::size_t count = 0; count <= 100; ++count) seen.insert((chiasm::ContentHash<>(key) << all.first(count)).digest().low);
  CHECK(seen.size() == 101);
  CHECK_FALSE((chiasm::ContentHash<>({1, 3}) << all).digest() == whole);
}
