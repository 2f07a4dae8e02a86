/// KvCache: the keys and values of the positions that a decoder has seen, per layer. One per sequence; grows as it is used.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/kernels/table.hpp>
#include <chiasm/nn/kv_view.hpp>

#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class KvCache {
 public:
  /// One layer's memory: (kv_heads, blocks of positions), so that a head's keys are one stream. kernels/kv_layout.hpp says how they lie.
  class Layer {
   public:
    Layer() = default;
    Layer(std::size_t heads, std::size_t head_dim, std::size_t v_dim, KvKind kind = KvKind::automatic)
        : heads_(heads), head_dim_(head_dim), v_dim_(v_dim), wanted_(kind) {}

    /// Numbers per position: of keys, of values.
    std::size_t key_width() const noexcept { return heads_ * head_dim_; }
    std::size_t value_width() const noexcept { return heads_ * v_dim_; }
    /// The stored positions as append() takes them, (T, heads * head_dim) and (T, heads * v_dim), into memory of that size.
    void read(MutView keys, MutView values) const {
      if (keys.rows() != length_ || keys.columns() != key_width() || values.rows() != length_ || values.columns() != value_width())
        throw ShapeError("KvCache::read", keys.shape().to_string() + ", " + values.shape().to_string() + " from " + std::to_string(length_) + " positions");
      if (length_ == 0) return;
      for (std::size_t h = 0; h < heads_; ++h) {
        store_->read_keys(rows_of(keys_, h, key_bytes(), head_dim_, length_, nullptr, keys.data() + h * head_dim_, keys.stride()));
        store_->read_values(rows_of(values_, h, value_bytes(), v_dim_, length_, nullptr, values.data() + h * v_dim_, values.stride()));
      }
    }

    /// Takes memory for so many positions, so that append() moves none up to there.
    void reserve(Context& ctx, std::size_t length) {
      if (length_ == 0) become(wanted_ == KvKind::automatic ? ctx.kv_kind() : wanted_);
      grow(ctx, length);
    }

    /// Positions that are stored.
    std::size_t length() const noexcept { return length_; }
    /// How they are stored: what was asked for, and from the first position on what that means here.
    KvKind kind() const noexcept { return kind_ == KvKind::automatic ? wanted_ : kind_; }

    /// Appends the keys (T, heads * head_dim) and values (T, heads * v_dim) of T positions; the view holds all positions. Throws ShapeError.
    KvView append(Context& ctx, View keys, View values) {
      const std::size_t count = keys.rows();
      if (keys.columns() != heads_ * head_dim_ || values.columns() != heads_ * v_dim_ || values.rows() != count)
        throw ShapeError("KvCache::append", keys.shape().to_string() + ", " + values.shape().to_string() + " into " + std::to_string(heads_) +
                                                " heads of " + std::to_string(head_dim_) + ", " + std::to_string(v_dim_));
      reserve(ctx, length_ + count);
      store_ = &ctx.kernels().kv;
      ctx.parallel(heads_, (std::size_t{1} << 14) / (count * (head_dim_ + v_dim_) + 1) + 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t h = begin; h < end; ++h) {
          store_->write_keys(rows_of(keys_, h, key_bytes(), head_dim_, count, keys.data() + h * head_dim_, nullptr, keys.stride()));
          store_->write_values(rows_of(values_, h, value_bytes(), v_dim_, count, values.data() + h * v_dim_, nullptr, values.stride()));
        }
      });
      length_ += count;
      return view();
    }

    KvView view() const noexcept {
      KvView view;
      view.length = length_;
      view.kind = kind_ == KvKind::automatic ? KvKind::f32 : kind_;
      const std::size_t key_stride = capacity_ / kernels::kv_block * key_bytes(), value_stride = capacity_ / kernels::kv_block * value_bytes();
      if (view.kind == KvKind::f32) {
        view.keys = reinterpret_cast<const float*>(keys_.data());
        view.values = reinterpret_cast<const float*>(values_.data());
        view.key_stride = head_dim_, view.key_head_stride = key_stride / sizeof(float);
        view.value_stride = v_dim_, view.value_head_stride = value_stride / sizeof(float);
      } else {
        view.key_blocks = keys_.data(), view.key_block_stride = key_stride;
        view.value_blocks = values_.data(), view.value_block_stride = value_stride;
      }
      return view;
    }

    /// As above, of positions [first, first + count); of kinds other than f32, `first` is a multiple of kernels::kv_block.
    KvView view(std::size_t first, std::size_t count) const noexcept {
      KvView part = view();
      part.length = count;
      if (part.kind == KvKind::f32) {
        part.keys += first * head_dim_;
        part.values += first * v_dim_;
      } else {
        part.key_blocks += first / kernels::kv_block * key_bytes();
        part.value_blocks += first / kernels::kv_block * value_bytes();
      }
      return part;
    }

    void truncate(std::size_t length) noexcept {
      if (length >= length_) return;
      length_ = length;
      clear_rest();
    }
    /// Bytes of memory that it holds.
    std::size_t bytes() const { return keys_.bytes() + values_.bytes(); }

    /// Takes positions [begin, end) from a cache whose first `begin` positions are equal to these.
    void copy_range(Context& ctx, const Layer& from, std::size_t begin, std::size_t end) {
      heads_ = from.heads_, head_dim_ = from.head_dim_, v_dim_ = from.v_dim_, wanted_ = from.wanted_, store_ = from.store_;
      end = end < from.length_ ? end : from.length_;
      length_ = begin < length_ ? begin : length_;
      if (kind_ != from.kind_) {
        become(from.kind_);
        begin = 0;
      }
      grow(ctx, end);
      for (std::size_t h = 0; h < heads_; ++h) {
        copy(from.keys_, keys_, h, from.capacity_, begin, end, key_bytes());
        copy(from.values_, values_, h, from.capacity_, begin, end, value_bytes());
      }
      length_ = end;
      clear_rest();
    }

   private:
    std::size_t key_bytes() const noexcept { return kernels::kv_key_bytes(kind_, head_dim_); }      // of a block of a head
    std::size_t value_bytes() const noexcept { return kernels::kv_value_bytes(kind_, v_dim_); }

    void become(KvKind kind) {
      length_ = 0;
      if (kind == kind_) return;
      kind_ = kind;
      capacity_ = 0;
      keys_ = {};
      values_ = {};
    }
    void grow(Context& ctx, std::size_t length) {
      if (length <= capacity_) return;
      std::size_t capacity = capacity_ < 64 ? 64 : capacity_ * 2;
      if (capacity < length) capacity = (length + 64) / kernels::kv_block * kernels::kv_block;
      const std::size_t blocks = capacity / kernels::kv_block;
      auto keys = ctx.empty<std::byte>(Shape{heads_, blocks, key_bytes()}), values = ctx.empty<std::byte>(Shape{heads_, blocks, value_bytes()});
      std::swap(capacity, capacity_);
      keys.swap(keys_);
      values.swap(values_);
      for (std::size_t h = 0; h < heads_; ++h) {
        copy(keys, keys_, h, capacity, 0, length_, key_bytes());
        copy(values, values_, h, capacity, 0, length_, value_bytes());
      }
    }
    /// The blocks that hold positions [begin, end).
    void copy(const BasicTensor<std::byte>& from, BasicTensor<std::byte>& to, std::size_t head, std::size_t from_capacity, std::size_t begin, std::size_t end,
              std::size_t bytes) const {
      using kernels::kv_block;
      const std::size_t first = begin / kv_block, last = (end + kv_block - 1) / kv_block;
      if (begin < end)
        std::memcpy(to.data() + (head * (capacity_ / kv_block) + first) * bytes, from.data() + (head * (from_capacity / kv_block) + first) * bytes,
                    (last - first) * bytes);
    }
    /// Clears the values behind the last position of its block: attention multiplies them by 0, which must not meet a NaN.
    void clear_rest() noexcept {
      const std::size_t in = length_ % kernels::kv_block;
      if (in == 0 || kind_ == KvKind::f32 || kind_ == KvKind::automatic) return;
      for (std::size_t h = 0; h < heads_; ++h)
        kernels::clear_values(kind_, v_dim_, in, reinterpret_cast<unsigned char*>(values_.data()) + (h * (capacity_ / kernels::kv_block) + length_ / kernels::kv_block) * value_bytes());
    }
    kernels::KvRows rows_of(const BasicTensor<std::byte>& memory, std::size_t head, std::size_t bytes, std::size_t width, std::size_t count, const float* from,
                            float* to, std::size_t stride) const noexcept {
      // Memory that is only read goes through the same structure.
      auto* const blocks = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(memory.data())) + head * (capacity_ / kernels::kv_block) * bytes;
      return {kind_, width, from == nullptr ? 0 : length_, count, blocks, from, to, stride};
    }

    BasicTensor<std::byte> keys_, values_;
    std::size_t heads_ = 0, head_dim_ = 0, v_dim_ = 0, length_ = 0, capacity_ = 0;
    KvKind wanted_ = KvKind::automatic, kind_ = KvKind::automatic;  // kind_: automatic while nothing was ever stored
    const kernels::KvStore* store_ = nullptr;                        // of the context that wrote last
  };

  KvCache() = default;
  /// `kind`: automatic leaves it to the context of the first append().
  KvCache(std::size_t layers, std::size_t kv_heads, std::size_t head_dim, std::size_t v_dim, KvKind kind = KvKind::automatic) {
    layers_.reserve(layers);
    for (std::size_t i = 0; i < layers; ++i) layers_.emplace_back(kv_heads, head_dim, v_dim, kind);
  }

  /// Positions that every layer has.
  std::size_t length() const noexcept { return layers_.empty() ? 0 : layers_.back().length(); }
  std::size_t layers() const noexcept { return layers_.size(); }
  KvKind kind() const noexcept { return layers_.empty() ? KvKind::automatic : layers_.back().kind(); }
  Layer& operator[](std::size_t layer) noexcept { return layers_[layer]; }
  const Layer& operator[](std::size_t layer) const noexcept { return layers_[layer]; }

  /// Layer::reserve() of all layers.
  void reserve(Context& ctx, std::size_t length) {
    for (Layer& layer : layers_) layer.reserve(ctx, length);
  }
  /// Forgets all positions from `length` on, to go back in a conversation.
  void truncate(std::size_t length) noexcept {
    for (Layer& layer : layers_) layer.truncate(length);
  }
  /// Becomes equal to the first `length` positions of `from`.
  void copy_head(Context& ctx, const KvCache& from, std::size_t length) {
    layers_.resize(from.layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].copy_range(ctx, from.layers_[i], 0, length);
  }
  /// Bytes of memory that the layers hold.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const Layer& layer : layers_) sum += layer.bytes();
    return sum;
  }
  /// Becomes equal to `from`, given that the first `begin` positions are so already (0: copies everything).
  void copy_tail(Context& ctx, const KvCache& from, std::size_t begin) {
    layers_.resize(from.layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].copy_range(ctx, from.layers_[i], begin, from.layers_[i].length());
  }

 private:
  std::vector<Layer> layers_;
};

}  // namespace chiasm
