/// What all readers of config.json share: sizes that make sense, activations by name, rotary settings in old and new spelling.
#pragma once

#include <chiasm/core/activation.hpp>
#include <chiasm/io/json.hpp>
#include <chiasm/nn/rope.hpp>

#include <string_view>

namespace chiasm::inline CHIASM_ABI {

/// Member `key` of a configuration as a size, `fallback` (the class default of transformers) where the file leaves it out.
/// Throws ConfigError: not an integer, 0, or beyond 2^24, which no model reaches and a hostile file might.
inline std::size_t config_size(const Json& config, std::string_view key, std::size_t fallback) {
  const Json value = config.find(key);
  if (value.is_null()) return fallback;
  const std::int64_t size = value.as_int();
  if (size < 1 || size > (std::int64_t{1} << 24)) value.fail("is " + std::to_string(size) + ", expected 1 to 16777216");
  return static_cast<std::size_t>(size);
}

/// As config_size(), for numbers of layers: at most 4096.
inline std::size_t config_layers(const Json& config, std::string_view key, std::size_t fallback) {
  const std::size_t layers = config_size(config, key, fallback);
  if (layers > 4096) config[key].fail("is " + std::to_string(layers) + ", expected at most 4096");
  return layers;
}

/// A small positive number: an epsilon, a base. Throws ConfigError.
inline double config_positive(const Json& config, std::string_view key, double fallback) {
  const double number = config.get<double>(key, fallback);
  if (!(number > 0)) config[key].fail("is " + config[key].dump() + ", expected a positive number");
  return number;
}

/// Throws ConfigError if `heads` does not divide `width`, where the width of a head follows from it.
inline void config_divides(const Json& config, std::string_view key, std::size_t heads, std::size_t width) {
  if (width % heads != 0)
    config.fail("'" + std::string(key) + "' is " + std::to_string(heads) + ", which does not divide " + std::to_string(width));
}

/// An activation by the name that transformers gives it. Throws ConfigError.
inline Activation config_activation(const Json& config, std::string_view key, std::string_view fallback) {
  const Json value = config.find(key);
  const std::string_view name = value.is_null() ? fallback : value.as_string();
  if (name == "gelu" || name == "gelu_python") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_python_tanh" || name == "gelu_fast" || name == "gelu_accurate") return Activation::gelu_tanh;
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "relu") return Activation::relu;
  value.fail("is '" + std::string(name) + "', expected gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, silu, swish or relu");
}

/// What a family's older files call the base and the share of a head that turns, where the share is left out.
struct RopeKeys {
  std::string_view theta = "rope_theta", share = "partial_rotary_factor";
  double default_share = 1.0;
};

/// Rotary settings of a decoder: `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of before. Throws ConfigError,
/// UnsupportedError.
inline RopeConfig config_rope(const Json& config, std::size_t head_dim, double default_theta, std::size_t default_length, const RopeKeys& keys = {}) {
  const Json parameters = config.find("rope_parameters"), old = config.find("rope_scaling");
  const Json scaling = parameters.is_object() ? parameters : old;
  RopeConfig rope;
  const bool inside = parameters.is_object() && parameters.contains("rope_theta");
  rope.theta = config_positive(inside ? parameters : config, inside ? "rope_theta" : keys.theta, default_theta);
  rope.max_position_embeddings = config_size(config, "max_position_embeddings", default_length);
  const bool scaled = !scaling.find("partial_rotary_factor").is_null();
  const Json place = scaled ? scaling : config;
  const std::string_view key = scaled ? "partial_rotary_factor" : keys.share;
  const double share = place.get<double>(key, keys.default_share);
  if (!(share > 0 && share <= 1)) place[key].fail("is " + place[key].dump() + ", expected more than 0 and at most 1");
  rope.dim = static_cast<std::size_t>(static_cast<double>(head_dim) * share);
  if (rope.dim % 2 != 0 && rope.dim == head_dim) config.fail("rotary dimensions are " + std::to_string(rope.dim) + ", expected an even number");
  if (!scaling.is_object()) return rope;

  const std::string type = scaling.get<std::string>("rope_type", scaling.get<std::string>("type", "default"));
  if (type == "default" || type == "mrope") return rope;
  const bool stretched_length = scaling.contains("original_max_position_embeddings");
  rope.original_max_position_embeddings =
      static_cast<double>(config_size(stretched_length ? scaling : config, "original_max_position_embeddings", rope.max_position_embeddings));
  const double ratio = static_cast<double>(rope.max_position_embeddings) / rope.original_max_position_embeddings;
  if (type != "yarn" && scaling.find("factor").is_null()) scaling.fail("has no 'factor'");
  rope.factor = config_positive(scaling, "factor", ratio);
  if (type == "linear") {
    rope.type = RopeType::linear;
  } else if (type == "dynamic") {
    rope.type = RopeType::dynamic;
  } else if (type == "llama3") {
    rope.type = RopeType::llama3;
    rope.low_freq_factor = config_positive(scaling, "low_freq_factor", 1.0);
    rope.high_freq_factor = config_positive(scaling, "high_freq_factor", 4.0);
    if (rope.high_freq_factor <= rope.low_freq_factor) scaling.fail("'high_freq_factor' is not above 'low_freq_factor'");
  } else if (type == "yarn") {
    rope.type = RopeType::yarn;
    rope.beta_fast = config_positive(scaling, "beta_fast", 32.0);
    rope.beta_slow = config_positive(scaling, "beta_slow", 1.0);
    rope.truncate = scaling.get<bool>("truncate", true);
    const auto mscale = [&](double m) { return rope.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1.0; };
    const double m = scaling.get<double>("mscale", 0.0), all = scaling.get<double>("mscale_all_dim", 0.0);
    rope.attention_factor = scaling.get<double>("attention_factor", m != 0 && all != 0 ? mscale(m) / mscale(all) : mscale(1.0));
  } else {
    throw UnsupportedError("rope type '" + type + "' (" + config.file() + ")");
  }
  return rope;
}

}  // namespace chiasm
