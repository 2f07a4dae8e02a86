/// Tokenizers: everything about turning text into tokens and back.
#pragma once

#include <chiasm/io/tokenizer/pattern.hpp>
#include <chiasm/core/token_id.hpp>
#include <chiasm/io/tokenizer/token_stream.hpp>
#include <chiasm/io/tokenizer/tokenizer.hpp>
#include <chiasm/io/tokenizer/unicode.hpp>
