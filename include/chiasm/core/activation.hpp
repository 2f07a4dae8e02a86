/// Activation: the pointwise functions of the supported networks, by the names that config.json uses.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>

namespace chiasm::inline CHIASM_ABI {

enum class Activation : std::uint8_t {
  none,
  gelu,        // x Phi(x), with erf
  gelu_tanh,   // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): gelu_new, gelu_pytorch_tanh
  quick_gelu,  // x sigmoid(1.702 x): OpenAI's CLIP
  silu,        // x sigmoid(x)
  relu,
};

}  // namespace chiasm
