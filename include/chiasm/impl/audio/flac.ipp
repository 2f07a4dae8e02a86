/// FLAC, RFC 9639. Samples are exact; each frame's checksums are verified.
#pragma once

#include <chiasm/impl/audio/bytes.hpp>
#include <chiasm/io/audio.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI::detail {

/// A cyclic redundancy check of `Bits` bits, most significant bit first, starting from zero.
template <int Bits>
std::uint32_t flac_checksum(const std::uint8_t* data, std::size_t size, std::uint32_t polynomial) {
  std::array<std::uint32_t, 256> table;
  for (std::uint32_t i = 0; i < 256; ++i) {
    table[i] = i << (Bits - 8);
    for (int bit = 0; bit < 8; ++bit) table[i] = table[i] << 1 ^ (table[i] >> (Bits - 1) & 1 ? polynomial : 0);
    table[i] &= (1u << Bits) - 1;
  }
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum = (sum << 8 & ((1u << Bits) - 1)) ^ table[(sum >> (Bits - 8) ^ data[i]) & 0xFF];
  return sum;
}

/// Reads bits, most significant first.
class FlacBits {
 public:
  FlacBits(const AudioBytes& file, std::size_t byte) : file_(file), at_(8 * std::uint64_t{byte}) {}

  std::size_t byte() const noexcept { return static_cast<std::size_t>(at_ / 8); }
  void align() noexcept { at_ = (at_ + 7) / 8 * 8; }
  [[noreturn]] void fail(const std::string& what) const { file_.fail(byte(), what + " in FLAC"); }

  /// `count` bits, at most 56.
  std::uint64_t take(unsigned count) {
    if (count == 0) return 0;
    const std::uint64_t bits = peek() >> (64 - count);
    skip(count);
    return bits;
  }
  std::int64_t take_signed(unsigned count) {
    if (count == 0) return 0;
    const auto bits = static_cast<std::int64_t>(peek()) >> (64 - count);
    skip(count);
    return bits;
  }
  /// Zeros up to the next one.
  std::uint64_t unary() {
    for (std::uint64_t zeros = 0;;) {
      const std::uint64_t bits = peek();
      const unsigned seen = bits == 0 ? 56 : std::min(56u, static_cast<unsigned>(std::countl_zero(bits)));
      zeros += seen;
      skip(seen == 56 ? 56 : seen + 1);
      if (seen < 56) return zeros;
    }
  }

 private:
  /// The next bits, at least 57 of them, in the upper part; zeros behind the end.
  std::uint64_t peek() const noexcept {
    std::uint64_t bits = 0;
    const std::size_t from = byte();
    if (from + 8 <= file_.size) {
      for (std::size_t i = 0; i < 8; ++i) bits = bits << 8 | file_.data[from + i];
    } else {
      for (std::size_t i = 0; i < 8; ++i) bits = bits << 8 | (from + i < file_.size ? file_.data[from + i] : 0u);
    }
    return bits << at_ % 8;
  }
  void skip(unsigned count) {
    at_ += count;
    if (at_ > 8 * std::uint64_t{file_.size}) file_.fail(file_.size, "truncated FLAC");
  }

  const AudioBytes& file_;
  std::uint64_t at_;
};

struct FlacStream {
  std::uint32_t rate = 0;
  unsigned channels = 0, bits = 0;
  std::uint64_t frames = 0;  // 0: not known
};

/// Rice-coded residual of a subframe, added to what `predict` says about the samples so far.
template <class Predict>
void flac_residual(FlacBits& in, std::vector<std::int64_t>& samples, std::size_t order, unsigned bits, Predict&& predict) {
  const unsigned method = static_cast<unsigned>(in.take(2));
  if (method > 1) in.fail("reserved residual coding");
  const unsigned parameter_bits = method == 0 ? 4 : 5, escape = method == 0 ? 15 : 31;
  const std::size_t partitions = std::size_t{1} << in.take(4), length = samples.size() / partitions;
  if (length * partitions != samples.size() || length < order) in.fail("partitions that do not fit their block");
  const std::int64_t limit = std::int64_t{1} << (bits - 1);
  for (std::size_t i = order, end = length; end <= samples.size(); end += length) {
    const auto parameter = static_cast<unsigned>(in.take(parameter_bits));
    const unsigned raw = parameter == escape ? static_cast<unsigned>(in.take(5)) : 0;
    for (; i < end; ++i) {
      std::int64_t residual;
      if (parameter == escape) {
        residual = in.take_signed(raw);
      } else {
        const std::uint64_t quotient = in.unary();
        if (quotient >> 33) in.fail("residual out of range");
        const std::uint64_t folded = quotient << parameter | in.take(parameter);
        residual = static_cast<std::int64_t>(folded >> 1) ^ -static_cast<std::int64_t>(folded & 1);
      }
      const std::int64_t sample = predict(samples.data() + i) + residual;
      if (sample < -limit || sample >= limit) in.fail("sample out of range");  // bounds the next prediction
      samples[i] = sample;
    }
  }
}

inline void flac_subframe(FlacBits& in, std::vector<std::int64_t>& samples, unsigned bits) {
  const auto kind = static_cast<unsigned>(in.take(7));  // a zero, then the type
  unsigned wasted = 0;
  if (in.take(1)) {
    const std::uint64_t more = in.unary();
    if (more + 1 >= bits) in.fail("samples of no bits");
    wasted = static_cast<unsigned>(more + 1);
    bits -= wasted;
  }
  const auto warm_up = [&](std::size_t order) {
    if (order > samples.size()) in.fail("predictor longer than its block");
    for (std::size_t i = 0; i < order; ++i) samples[i] = in.take_signed(bits);
  };
  if (kind == 0) {
    std::fill(samples.begin(), samples.end(), in.take_signed(bits));
  } else if (kind == 1) {
    warm_up(samples.size());
  } else if (kind >= 8 && kind <= 12) {
    const std::size_t order = kind - 8;
    warm_up(order);
    using Sample = const std::int64_t*;
    if (order == 0) flac_residual(in, samples, order, bits, [](Sample) { return std::int64_t{0}; });
    if (order == 1) flac_residual(in, samples, order, bits, [](Sample s) { return s[-1]; });
    if (order == 2) flac_residual(in, samples, order, bits, [](Sample s) { return 2 * s[-1] - s[-2]; });
    if (order == 3) flac_residual(in, samples, order, bits, [](Sample s) { return 3 * s[-1] - 3 * s[-2] + s[-3]; });
    if (order == 4) flac_residual(in, samples, order, bits, [](Sample s) { return 4 * s[-1] - 6 * s[-2] + 4 * s[-3] - s[-4]; });
  } else if (kind >= 32 && kind < 64) {
    const std::size_t order = kind - 31;
    warm_up(order);
    const auto precision = static_cast<unsigned>(in.take(4)) + 1;
    const std::int64_t shift = in.take_signed(5);
    if (precision == 16 || shift < 0) in.fail("reserved predictor");
    std::array<std::int64_t, 32> coefficients{};
    for (std::size_t i = 0; i < order; ++i) coefficients[i] = in.take_signed(precision);
    flac_residual(in, samples, order, bits, [&](const std::int64_t* s) {
      std::int64_t sum = 0;  // 32 products of 15 and 33 bits
      for (std::size_t i = 0; i < order; ++i) sum += coefficients[i] * *--s;
      return sum >> shift;
    });
  } else {
    in.fail("reserved subframe");
  }
  if (wasted)
    for (std::int64_t& sample : samples) sample *= std::int64_t{1} << wasted;
}

/// One frame, its channels apart. Returns the offset of what follows it.
inline std::size_t flac_frame(const AudioBytes& file, std::size_t begin, const FlacStream& stream, std::vector<std::vector<std::int64_t>>& channels) {
  FlacBits in(file, begin);
  if (in.take(15) != 0x7FFC) file.fail(begin, "a frame was expected in FLAC");
  in.take(1);  // fixed or variable block size: told again by the coded number, which nothing here needs
  const auto block_code = static_cast<unsigned>(in.take(4)), rate_code = static_cast<unsigned>(in.take(4));
  const auto assignment = static_cast<unsigned>(in.take(4)), bits_code = static_cast<unsigned>(in.take(3));
  in.take(1);
  const int ones = std::countl_one(static_cast<std::uint8_t>(in.take(8)));
  if (ones == 1 || ones == 8) in.fail("ill-formed frame number");
  for (int i = 1; i < ones; ++i)
    if (in.take(8) >> 6 != 2) in.fail("ill-formed frame number");
  std::size_t block = 0;
  if (block_code == 0) in.fail("reserved block size");
  else if (block_code == 1) block = 192;
  else if (block_code < 6) block = std::size_t{576} << (block_code - 2);
  else if (block_code < 8) block = in.take(block_code == 6 ? 8 : 16) + 1;
  else block = std::size_t{256} << (block_code - 8);
  if (rate_code == 15) in.fail("reserved sampling rate");
  if (rate_code >= 12) in.take(rate_code == 12 ? 8 : 16);
  constexpr unsigned widths[] = {0, 8, 12, 0, 16, 20, 24, 32};
  const unsigned count = assignment < 8 ? assignment + 1 : 2;
  if (assignment > 10 || bits_code == 3) in.fail("reserved frame");
  if (count != stream.channels || (bits_code != 0 && widths[bits_code] != stream.bits)) in.fail("a frame of another format than its stream");
  const std::size_t header = in.byte() - begin;
  if (in.take(8) != flac_checksum<8>(file.data + begin, header, 0x07)) file.fail(begin, "damaged frame header in FLAC (checksum)");

  for (unsigned c = 0; c < count; ++c) {
    channels[c].resize(block);
    const bool side = (c == 1 && (assignment == 8 || assignment == 10)) || (c == 0 && assignment == 9);
    flac_subframe(in, channels[c], stream.bits + side);
  }
  in.align();
  const std::size_t body = in.byte() - begin;
  if (in.take(16) != flac_checksum<16>(file.data + begin, body, 0x8005)) file.fail(begin, "damaged frame in FLAC (checksum)");

  if (assignment >= 8)
    for (std::size_t i = 0; i < block; ++i) {
      std::int64_t &a = channels[0][i], &b = channels[1][i];
      if (assignment == 8) {  // left, side
        b = a - b;
      } else if (assignment == 9) {  // side, right
        a += b;
      } else {  // mid, side; the sum's lowest bit is that of the difference
        const std::int64_t sum = 2 * a + (b & 1), side = b;
        a = (sum + side) >> 1;
        b = (sum - side) >> 1;
      }
    }
  return in.byte();
}

inline Audio decode_flac(const AudioBytes& file) {
  FlacStream stream;
  std::size_t at = 4;
  for (bool last = false; !last;) {
    FlacBits in(file, at);
    last = in.take(1);
    const auto kind = static_cast<unsigned>(in.take(7));
    const std::size_t size = in.take(24);
    file.at(at + 4, size);
    if ((kind == 0) != (at == 4) || (kind == 0 && size != 34)) file.fail(at, "FLAC whose first block is no stream information");
    if (kind == 0) {
      in.take(32), in.take(48);  // sizes of blocks and frames
      stream.rate = static_cast<std::uint32_t>(in.take(20));
      stream.channels = static_cast<unsigned>(in.take(3)) + 1;
      stream.bits = static_cast<unsigned>(in.take(5)) + 1;
      stream.frames = in.take(36);
      if (stream.rate == 0 || stream.bits < 4) file.fail(at, "FLAC of " + std::to_string(stream.rate) + " Hz, " + std::to_string(stream.bits) + " bits");
    }
    at += 4 + size;
  }

  // Silence takes a few bytes per thousands of samples; more than that is a small file that wants to fill the memory.
  const std::uint64_t most = (std::uint64_t{1} << 20) + std::uint64_t{file.size} * 1024;
  const float scale = 1.0f / static_cast<float>(std::int64_t{1} << (stream.bits - 1));
  std::vector<std::vector<std::int64_t>> channels(stream.channels);
  std::vector<float> samples;
  samples.reserve(static_cast<std::size_t>(std::min(stream.frames * stream.channels, std::uint64_t{file.size} * 2)));
  const auto frames = [&] { return samples.size() / stream.channels; };
  while (stream.frames == 0 ? at < file.size : frames() < stream.frames) {
    if (at >= file.size) file.fail(file.size, "truncated FLAC: " + std::to_string(frames()) + " of " + std::to_string(stream.frames) + " frames");
    const std::size_t begin = at;
    at = flac_frame(file, begin, stream, channels);
    const std::size_t had = samples.size(), block = channels[0].size();
    if (had + block * stream.channels > most) file.fail(begin, "FLAC of more than " + std::to_string(most) + " samples in " + std::to_string(file.size) + " bytes");
    samples.resize(had + block * stream.channels);
    for (unsigned c = 0; c < stream.channels; ++c)
      for (std::size_t i = 0; i < block; ++i) samples[had + i * stream.channels + c] = static_cast<float>(channels[c][i]) * scale;
  }
  return Audio(static_cast<int>(stream.rate), std::move(samples), static_cast<int>(stream.channels));
}

}  // namespace chiasm
