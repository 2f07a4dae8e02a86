/// KvCache: the keys and values of the positions that a decoder has seen, per layer. One per sequence; grows as it is used.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/nn/kv_view.hpp>

#include <cstring>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class KvCache {
 public:
  /// One layer's memory: (kv_heads, capacity, head_dim), so that a head's keys are one stream.
  class Layer {
   public:
    Layer() = default;
    Layer(std::size_t heads, std::size_t head_dim, std::size_t v_dim) : heads_(heads), head_dim_(head_dim), v_dim_(v_dim) {}

    /// Numbers per position: of keys, of values.
    std::size_t key_width() const noexcept { return heads_ * head_dim_; }
    std::size_t value_width() const noexcept { return heads_ * v_dim_; }
    /// The stored positions as append() takes them, (T, heads * head_dim) and (T, heads * v_dim), into memory of that size.
    void read(MutView keys, MutView values) const {
      if (keys.rows() != length_ || keys.columns() != key_width() || values.rows() != length_ || values.columns() != value_width())
        throw ShapeError("KvCache::read", keys.shape().to_string() + ", " + values.shape().to_string() + " from " + std::to_string(length_) + " positions");
      for (std::size_t t = 0; t < length_; ++t)
        for (std::size_t h = 0; h < heads_; ++h) {
          std::memcpy(keys.row(t) + h * head_dim_, keys_.data() + (h * capacity_ + t) * head_dim_, head_dim_ * sizeof(float));
          std::memcpy(values.row(t) + h * v_dim_, values_.data() + (h * capacity_ + t) * v_dim_, v_dim_ * sizeof(float));
        }
    }

    /// Positions that are stored.
    std::size_t length() const noexcept { return length_; }

    /// Appends the keys (T, heads * head_dim) and values (T, heads * v_dim) of T positions; the view holds all positions. Throws ShapeError.
    KvView append(Context& ctx, View keys, View values) {
      const std::size_t count = keys.rows();
      if (keys.columns() != heads_ * head_dim_ || values.columns() != heads_ * v_dim_ || values.rows() != count)
        throw ShapeError("KvCache::append", keys.shape().to_string() + ", " + values.shape().to_string() + " into " + std::to_string(heads_) +
                                                " heads of " + std::to_string(head_dim_) + ", " + std::to_string(v_dim_));
      reserve(ctx, length_ + count);
      scatter(keys, keys_, head_dim_);
      scatter(values, values_, v_dim_);
      length_ += count;
      return view();
    }

    KvView view() const noexcept {
      return {keys_.data(), values_.data(), length_, head_dim_, capacity_ * head_dim_, v_dim_, capacity_ * v_dim_};
    }

    void truncate(std::size_t length) noexcept { length_ = length < length_ ? length : length_; }
    /// Bytes of memory that it holds.
    std::size_t bytes() const { return keys_.bytes() + values_.bytes(); }

    /// Takes positions [begin, end) from a cache whose first `begin` positions are equal to these.
    void copy_range(Context& ctx, const Layer& from, std::size_t begin, std::size_t end) {
      heads_ = from.heads_, head_dim_ = from.head_dim_, v_dim_ = from.v_dim_;
      end = end < from.length_ ? end : from.length_;
      length_ = begin < length_ ? begin : length_;
      reserve(ctx, end);
      for (std::size_t h = 0; h < heads_; ++h) {
        copy(from.keys_, keys_, h, from.capacity_, begin, end, head_dim_);
        copy(from.values_, values_, h, from.capacity_, begin, end, v_dim_);
      }
      length_ = end;
    }

   private:
    void reserve(Context& ctx, std::size_t length) {
      if (length <= capacity_) return;
      std::size_t capacity = capacity_ < 64 ? 64 : capacity_ * 2;
      if (capacity < length) capacity = length + 64;
      Tensor keys = ctx.empty(Shape{heads_, capacity, head_dim_}), values = ctx.empty(Shape{heads_, capacity, v_dim_});
      std::swap(capacity, capacity_);
      keys.swap(keys_);
      values.swap(values_);
      for (std::size_t h = 0; h < heads_ && length_ > 0; ++h) {
        copy(keys, keys_, h, capacity, 0, length_, head_dim_);
        copy(values, values_, h, capacity, 0, length_, v_dim_);
      }
    }
    void copy(const Tensor& from, Tensor& to, std::size_t head, std::size_t from_capacity, std::size_t begin, std::size_t end, std::size_t width) const {
      if (begin < end)
        std::memcpy(to.data() + (head * capacity_ + begin) * width, from.data() + (head * from_capacity + begin) * width,
                    (end - begin) * width * sizeof(float));
    }
    void scatter(View from, Tensor& to, std::size_t width) const {
      for (std::size_t t = 0; t < from.rows(); ++t)
        for (std::size_t h = 0; h < heads_; ++h)
          std::memcpy(to.data() + (h * capacity_ + length_ + t) * width, from.row(t) + h * width, width * sizeof(float));
    }

    Tensor keys_, values_;
    std::size_t heads_ = 0, head_dim_ = 0, v_dim_ = 0, length_ = 0, capacity_ = 0;
  };

  KvCache() = default;
  KvCache(std::size_t layers, std::size_t kv_heads, std::size_t head_dim, std::size_t v_dim) {
    layers_.reserve(layers);
    for (std::size_t i = 0; i < layers; ++i) layers_.emplace_back(kv_heads, head_dim, v_dim);
  }

  /// Positions that every layer has.
  std::size_t length() const noexcept { return layers_.empty() ? 0 : layers_.back().length(); }
  std::size_t layers() const noexcept { return layers_.size(); }
  Layer& operator[](std::size_t layer) noexcept { return layers_[layer]; }
  const Layer& operator[](std::size_t layer) const noexcept { return layers_[layer]; }

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
