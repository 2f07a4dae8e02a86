/// ContentHash: SipHash (Aumasson and Bernstein, https://www.aumasson.jp/siphash/siphash.pdf) of 128 bits. With a secret key nobody can make
/// two contents that hash alike, which matters where one user's picture must not be taken for another's.
#pragma once

#include <chiasm/version.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace chiasm::inline CHIASM_ABI {

struct Digest {
  std::uint64_t low = 0, high = 0;
  bool operator==(const Digest&) const = default;
};

/// `Rounds` per eight bytes and `FinalRounds` at the end: 1 and 3 are the fast choice, 2 and 4 the authors' first one.
template <int Rounds = 1, int FinalRounds = 3>
class ContentHash {
 public:
  struct Key {
    std::uint64_t low = 0, high = 0;
  };

  explicit ContentHash(Key key) noexcept
      : v0_(key.low ^ 0x736f6d6570736575U), v1_(key.high ^ 0x646f72616e646f83U), v2_(key.low ^ 0x6c7967656e657261U), v3_(key.high ^ 0x7465646279746573U) {}

  /// Appends to the content.
  ContentHash& operator<<(std::span<const std::byte> bytes) noexcept {
    length_ += bytes.size();
    while (!bytes.empty() && pending_ != 0) {
      tail_ |= std::to_integer<std::uint64_t>(bytes.front()) << (8 * pending_);
      bytes = bytes.subspan(1);
      if (++pending_ == 8) {
        absorb(tail_);
        tail_ = 0;
        pending_ = 0;
      }
    }
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
      std::uint64_t word;
      std::memcpy(&word, bytes.data(), sizeof word);
      absorb(word);
    }
    for (const std::byte byte : bytes) tail_ |= std::to_integer<std::uint64_t>(byte) << (8 * pending_++);
    return *this;
  }
  ContentHash& operator<<(std::uint64_t value) noexcept { return *this << std::as_bytes(std::span<const std::uint64_t>(&value, 1)); }

  Digest digest() const noexcept {
    ContentHash end = *this;
    end.absorb(tail_ | length_ << 56);
    end.v2_ ^= 0xee;
    for (int i = 0; i < FinalRounds; ++i) end.round();
    Digest digest{end.sum(), 0};
    end.v1_ ^= 0xdd;
    for (int i = 0; i < FinalRounds; ++i) end.round();
    digest.high = end.sum();
    return digest;
  }

 private:
  static_assert(std::endian::native == std::endian::little);

  void round() noexcept {
    v0_ += v1_, v1_ = std::rotl(v1_, 13), v1_ ^= v0_, v0_ = std::rotl(v0_, 32);
    v2_ += v3_, v3_ = std::rotl(v3_, 16), v3_ ^= v2_;
    v0_ += v3_, v3_ = std::rotl(v3_, 21), v3_ ^= v0_;
    v2_ += v1_, v1_ = std::rotl(v1_, 17), v1_ ^= v2_, v2_ = std::rotl(v2_, 32);
  }
  void absorb(std::uint64_t word) noexcept {
    v3_ ^= word;
    for (int i = 0; i < Rounds; ++i) round();
    v0_ ^= word;
  }
  std::uint64_t sum() const noexcept { return v0_ ^ v1_ ^ v2_ ^ v3_; }

  std::uint64_t v0_, v1_, v2_, v3_, tail_ = 0, length_ = 0;
  unsigned pending_ = 0;
};

}  // namespace chiasm
