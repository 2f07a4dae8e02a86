/// Mistral: Llama with grouped queries and, in its first release, a sliding window. arXiv:2310.06825.
#pragma once

#include <chiasm/models/llama.hpp>

namespace chiasm::inline CHIASM_ABI {

struct MistralConfig : DecoderConfig {
  /// Throws ConfigError, UnsupportedError.
  static MistralConfig from(const Json& config) {
    DecoderConfig defaults;
    defaults.intermediate_size = 14336;
    MistralConfig c{detail::read_decoder(config, defaults, 8, 131072)};
    // Left out means the class default; null means none.
    const bool none = config.contains("sliding_window") && config.find("sliding_window").is_null();
    if (!none) c.windows.assign(c.num_hidden_layers, config_size(config, "sliding_window", 4096));
    return c;
  }
};

class Mistral : public Decoder {
 public:
  Mistral(const Weights& w, const MistralConfig& config) : Decoder(w, config) {}
};

}  // namespace chiasm
