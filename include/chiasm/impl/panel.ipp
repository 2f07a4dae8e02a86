#pragma once

#include <chiasm/core/block_format.hpp>
#include <chiasm/core/panel.hpp>

#include <algorithm>
#include <cstring>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// Four bytes of each of 16 rows. Loops over them become vector code.
struct Lanes {
  std::uint32_t lane[panel_outputs];
};

/// A vector that compilers have on every machine.
using FourWords = std::uint32_t __attribute__((vector_size(16)));

/// Packs 16 rows, block by block. Rows that there are not (null) become zeros.
class PanelWriter {
 public:
  PanelWriter(DType type, const std::byte* const* rows, std::byte* to) noexcept : format_(panel_format(type)), block_(reinterpret_cast<Byte*>(to)) {
    static constexpr Byte zeros[256] = {};
    for (std::size_t o = 0; o < n; ++o) {
      rows_[o] = rows[o] == nullptr ? zeros : reinterpret_cast<const Byte*>(rows[o]);
      steps_[o] = rows[o] == nullptr ? 0 : size_of(type);
    }
  }

  /// The next block.
  void write(DType type) noexcept {
    switch (type) {
      case DType::q4_0: case DType::iq4_nl: halves(0, unit(0)); nibbles(0, 2); break;
      case DType::q4_1: halves(0, unit(0)); halves(2, unit(0) + 32); nibbles(0, 4); break;
      case DType::q5_0: halves(0, unit(0)); nibbles(0, 6); fifth_bits(2); break;
      case DType::q5_1: halves(0, unit(0)); halves(2, unit(0) + 32); nibbles(0, 8); fifth_bits(4); break;
      case DType::q8_0: halves(0, unit(0)); bytes(2); break;
      case DType::q2_k: write_q2_k(); break;
      case DType::q3_k: write_q3_k(); break;
      case DType::q4_k: write_q4_k(16); break;
      case DType::q5_k: write_q4_k(48); upper_bits(16, 256); break;
      case DType::q6_k: write_q6_k(); break;
      case DType::iq4_xs: write_iq4_xs(); break;
      default: break;
    }
    for (std::size_t o = 0; o < n; ++o) rows_[o] += steps_[o];
    block_ += format_.block();
  }

  /// Rows that are blocks: their scales, their codes up to a whole tile of 64 k.
  void write_rows(std::size_t columns) noexcept {
    for (std::size_t o = 0; o < n; ++o)
      if (steps_[o] != 0) std::memcpy(block_ + sizeof(float) * o, rows_[o] + columns, sizeof(float));
      else std::memset(block_ + sizeof(float) * o, 0, sizeof(float));
    Byte *planes = codes(0), *const end = block_ + panel_bytes(DType::q8_row, columns);
    for (; columns >= 16; columns -= 16, planes += 256) {
      turn(0, planes);
      for (std::size_t o = 0; o < n; ++o) rows_[o] += 16 * steps_[o];
    }
    Byte last[n][16] = {};
    for (std::size_t o = 0; o < n; ++o) {
      std::memcpy(last[o], rows_[o], columns * steps_[o]);
      rows_[o] = last[o];
    }
    for (; planes != end; planes += 256, std::memset(last, 0, sizeof last)) turn(0, planes);
  }

 private:
  static constexpr std::size_t n = panel_outputs;
  Byte* unit(std::size_t u) const noexcept { return block_ + format_.header + u * format_.unit(); }
  Byte* codes(std::size_t u) const noexcept { return unit(u) + format_.scales; }

  Lanes load(std::size_t offset) const noexcept {
    Lanes a;
    for (std::size_t o = 0; o < n; ++o) std::memcpy(&a.lane[o], rows_[o] + offset, 4);
    return a;
  }
  static void store(Byte* plane, const Lanes& a) noexcept { std::memcpy(plane, a.lane, sizeof a.lane); }
  /// 16 bytes of the rows as four planes, one behind the other: squares of four words are turned in registers, which halves the time of word by word.
  void turn(std::size_t offset, void* planes) const noexcept {
    for (std::size_t o = 0; o < n; o += 4) {
      FourWords row[4];
      for (std::size_t i = 0; i < 4; ++i) std::memcpy(&row[i], rows_[o + i] + offset, sizeof row[i]);
      const FourWords a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5), b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
      const FourWords c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7), d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
      const FourWords turned[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                                   __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
      for (std::size_t i = 0; i < 4; ++i) std::memcpy(static_cast<Byte*>(planes) + 64 * i + 4 * o, &turned[i], sizeof turned[i]);
    }
  }

  void halves(std::size_t offset, Byte* to) const noexcept {
    for (std::size_t o = 0; o < n; ++o) std::memcpy(to + 2 * o, rows_[o] + offset, 2);
  }

  /// 16 bytes whose nibbles are k and k + 16: they have the panel's order already.
  void nibbles(std::size_t u, std::size_t offset) const noexcept { turn(offset, codes(u)); }
  void bytes(std::size_t offset) const noexcept {
    Lanes groups[8];
    load_32(offset, groups);
    for (Lanes& group : groups)
      for (std::uint32_t& lane : group.lane) lane ^= 0x80808080u;
    std::memcpy(codes(0), groups, sizeof groups);
  }
  /// q5_0 and q5_1: bit k of 32 bits to bit k / 4 of byte k % 4.
  void fifth_bits(std::size_t offset) const noexcept {
    const Lanes a = load(offset);
    Lanes b = {};
    for (unsigned g = 0; g < 8; ++g)
      for (std::size_t o = 0; o < n; ++o) {
        const std::uint32_t four = a.lane[o] >> (4 * g) & 15u;
        b.lane[o] |= ((four | four << 7 | four << 14 | four << 21) & 0x01010101u) << g;
      }
    store(codes(0) + 256, b);
  }
  /// 32 bytes, bit u of which belongs to unit u, to the plane at `plane` of the units' codes.
  void upper_bits(std::size_t offset, std::size_t plane) const noexcept {
    Lanes from[8];
    load_32(offset, from);
    for (unsigned u = 0; u < 8; ++u) {
      Lanes a = {};
      for (unsigned g = 0; g < 8; ++g)
        for (std::size_t o = 0; o < n; ++o) a.lane[o] |= (from[g].lane[o] >> u & 0x01010101u) << g;
      store(codes(u) + plane, a);
    }
  }
  /// Nibble `high` of 32 bytes, the codes of 32 k.
  void nibbles_of_32(std::size_t u, const Lanes (&from)[8], unsigned shift) const noexcept {
    for (std::size_t j = 0; j < 4; ++j) {
      Lanes a;
      for (std::size_t o = 0; o < n; ++o)
        a.lane[o] = (from[j].lane[o] >> shift & 0x0f0f0f0fu) | (from[j + 4].lane[o] >> shift & 0x0f0f0f0fu) << 4;
      store(codes(u) + 64 * j, a);
    }
  }
  /// Bits `shift` and up of 32 bytes, two of each.
  void pairs_of_32(std::size_t u, std::size_t plane, const Lanes (&from)[8], unsigned shift) const noexcept {
    for (std::size_t e = 0; e < 2; ++e) {
      Lanes a = {};
      for (std::size_t b = 0; b < 4; ++b)
        for (std::size_t o = 0; o < n; ++o) a.lane[o] |= (from[2 * b + e].lane[o] >> shift & 0x03030303u) << (2 * b);
      store(codes(u) + plane + 64 * e, a);
    }
  }
  void load_32(std::size_t offset, Lanes (&to)[8]) const noexcept {
    turn(offset, to);
    turn(offset + 16, to + 4);
  }

  void write_q2_k() const noexcept {
    halves(80, block_);
    halves(82, block_ + 32);
    for (std::size_t half = 0; half < 2; ++half) {
      Lanes from[8];
      load_32(16 + 32 * half, from);
      for (unsigned t = 0; t < 4; ++t) pairs_of_32(4 * half + t, 0, from, 2 * t);
    }
    for (std::size_t o = 0; o < n; ++o)
      for (std::size_t i = 0; i < 16; ++i) unit(i / 2)[16 * (i % 2) + o] = rows_[o][i];
  }
  void write_q3_k() const noexcept {
    halves(108, block_);
    for (std::size_t half = 0; half < 2; ++half) {
      Lanes from[8];
      load_32(32 + 32 * half, from);
      for (unsigned t = 0; t < 4; ++t) pairs_of_32(4 * half + t, 0, from, 2 * t);
    }
    upper_bits(0, 128);
    for (std::size_t o = 0; o < n; ++o) {
      const Byte* const s = rows_[o] + 96;
      for (std::size_t i = 0; i < 16; ++i) {
        const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
        unit(i / 2)[16 * (i % 2) + o] = static_cast<Byte>((low | high << 4) - 32);
      }
    }
  }
  void write_q4_k(std::size_t at) const noexcept {
    halves(0, block_);
    halves(2, block_ + 32);
    for (std::size_t piece = 0; piece < 4; ++piece) {
      Lanes from[8];
      load_32(at + 32 * piece, from);
      nibbles_of_32(2 * piece, from, 0);
      nibbles_of_32(2 * piece + 1, from, 4);
    }
    for (std::size_t o = 0; o < n; ++o) {
      for (int u = 0; u < 8; ++u) {
        const ScaleMin s = scale_min(rows_[o] + 4, u);
        Byte* const to = unit(static_cast<std::size_t>(u)) + o;
        to[0] = s.scale;
        to[16] = s.min;
      }
    }
  }
  void write_q6_k() const noexcept {
    halves(208, block_);
    for (std::size_t half = 0; half < 2; ++half) {
      Lanes low[2][8], high[8];
      load_32(64 * half, low[0]);
      load_32(64 * half + 32, low[1]);
      load_32(128 + 32 * half, high);
      for (unsigned t = 0; t < 4; ++t) {
        nibbles_of_32(4 * half + t, low[t % 2], t / 2 * 4);
        pairs_of_32(4 * half + t, 256, high, 2 * t);
      }
    }
    for (std::size_t o = 0; o < n; ++o)
      for (std::size_t i = 0; i < 16; ++i) unit(i / 2)[16 * (i % 2) + o] = rows_[o][192 + i];
  }
  void write_iq4_xs() const noexcept {
    halves(0, block_);
    for (std::size_t u = 0; u < 8; ++u) nibbles(u, 8 + 16 * u);
    for (std::size_t o = 0; o < n; ++o) {
      const Byte* const b = rows_[o];
      for (std::size_t u = 0; u < 8; ++u) {
        const int low = b[4 + u / 2] >> (u % 2 * 4) & 15, high = (b[2] | b[3] << 8) >> (2 * u) & 3;
        unit(u)[o] = static_cast<Byte>((low | high << 4) - 32);
      }
    }
  }

  PanelFormat format_;
  const Byte* rows_[n];
  std::size_t steps_[n];
  Byte* block_;
};

/// Code k (0 to 31) of a unit, before the offset.
inline int panel_code(DType type, const Byte* codes, std::size_t output, std::size_t k) noexcept {
  const std::size_t g = k / 4, at = 4 * output + k % 4;
  const auto pair = [&](const Byte* planes) { return planes[64 * (g % 2) + at] >> (2 * (g / 2)) & 3; };
  switch (code_bits(type)) {
    case 2: return pair(codes);
    case 3: return pair(codes) | (codes[128 + at] >> g & 1) << 2;
    case 8: return codes[64 * g + at];
    default: break;
  }
  const int low = codes[64 * (g % 4) + at] >> (g / 4 * 4) & 15;
  if (code_bits(type) == 5) return low | (codes[256 + at] >> g & 1) << 4;
  if (code_bits(type) == 6) return low | pair(codes + 256) << 4;
  return low;
}

}  // namespace detail

namespace detail {

inline void pack_bf16(const std::byte* const (&rows)[panel_outputs], std::size_t columns, std::byte* to) noexcept {
  constexpr std::size_t line = unit_depth * 2;
  for (std::size_t k = 0; k < columns; k += unit_depth)
    for (const std::byte* const row : rows) {
      const std::size_t bytes = row == nullptr ? 0 : std::min(columns - k, unit_depth) * 2;
      if (bytes != 0) std::memcpy(to, row + k * 2, bytes);
      std::memset(to + bytes, 0, line - bytes);
      to += line;
    }
}

}  // namespace detail

CHIASM_INLINE void pack_panel(DType type, const std::byte* const (&rows)[panel_outputs], std::size_t columns, std::byte* to) noexcept {
  if (type == DType::bf16) return detail::pack_bf16(rows, columns, to);
  detail::PanelWriter writer(type, rows, to);
  if (type == DType::q8_row) return writer.write_rows(columns);
  for (std::size_t b = 0, blocks = (columns + block_size(type) - 1) / block_size(type); b < blocks; ++b) writer.write(type);
}

CHIASM_INLINE void dequantize_panel(DType type, const std::byte* panel, std::size_t output, std::size_t column, float* values, std::size_t count) noexcept {
  const PanelFormat format = panel_format(type);
  const auto* const bytes = reinterpret_cast<const detail::Byte*>(panel);
  const bool flat = format.units == 1;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t k = column + i, u = k / unit_depth, in_unit = k % unit_depth;
    if (type == DType::bf16) {
      bf16 value;
      std::memcpy(&value, bytes + format.unit_at(u) + (output * unit_depth + in_unit) * 2, sizeof value);
      values[i] = static_cast<float>(value);
      continue;
    }
    const std::size_t half = has_half_scales(type) ? in_unit / 16 * 16 : 0;
    const detail::Byte *const block = bytes + format.block_at(u), *const unit = bytes + format.unit_at(u);
    const int code = detail::panel_code(type, unit + format.scales, output, in_unit);
    if (type == DType::q8_row) {
      float scale;
      std::memcpy(&scale, block + sizeof(float) * output, sizeof scale);
      values[i] = scale * static_cast<float>(static_cast<signed char>(code));
      continue;
    }
    // Products in dequantize()'s order: to the bit.
    const float d = detail::half_at((flat ? unit : block) + 2 * output), value = static_cast<float>(has_codebook(type) ? iq4_codebook[code] : code - code_offset(type));
    if (flat) {
      values[i] = type == DType::q4_1 || type == DType::q5_1 ? d * value + detail::half_at(unit + 32 + 2 * output) : d * value;
    } else if (type == DType::q2_k) {
      const float dmin = detail::half_at(block + 32 + 2 * output);
      const detail::Byte scales = unit[half + output];
      values[i] = d * static_cast<float>(scales & 15) * value - dmin * static_cast<float>(scales >> 4);
    } else {
      const float scale = d * static_cast<float>(static_cast<signed char>(unit[half + output]));
      values[i] = scale * value;
      if (has_minimum(type)) values[i] -= detail::half_at(block + 32 + 2 * output) * static_cast<float>(unit[16 + output]);
    }
  }
}

}  // namespace chiasm
