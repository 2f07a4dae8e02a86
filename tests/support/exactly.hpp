/// Options for an answer of a known length.
#pragma once

#include <chiasm/pipelines/generation.hpp>

#include <cstddef>
#include <vector>

/// Greedy, as long as asked, never ended by an end token.
inline chiasm::GenerateOptions exactly(std::size_t tokens) {
  chiasm::GenerateOptions options;
  options.max_new_tokens = tokens;
  options.do_sample = false;
  options.eos_token_id = std::vector<chiasm::TokenId>();
  return options;
}
