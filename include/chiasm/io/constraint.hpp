/// Constraint: the texts that an answer may be, as a list of choices, a regular expression or a JSON schema; and, on a tokenizer's vocabulary,
/// the tokens that may come next.
#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/core/token_id.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

class Json;
class Tokenizer;

/// A set of texts. Cheap to copy, const after construction and shareable between threads.
///
/// The text that is constrained is the whole answer as it is returned, without the end token. A call that returns text sets the constraint on its own
/// vocabulary; calls that know only ids want it set by on(). Generation then allows just the tokens with which the answer still can become one of the
/// texts, and the end token where it is one. As the last tokens of max_new_tokens come near, only ways that still lead to an end are left open:
/// the answer is never cut in the middle.
class Constraint {
 public:
  /// One of `texts`, as they are. Throws ArgumentError: none at all, one that is not UTF-8; UnsupportedError: more than about a megabyte of them.
  static Constraint choices(std::vector<std::string> texts);

  /// What the regular expression matches as a whole. Characters are code points; \d \w \s are ASCII's and `.` is all but a line feed, as in
  /// Python's re.ASCII. Known: literals, escapes, classes with ranges and negation, \p{..} with general categories, groups of all kinds that only group,
  /// `|`, `? * + {m,n}` (lazy ones mean the same texts), anchors at the ends. Throws FormatError (byte within the pattern), UnsupportedError:
  /// back references, lookaround, word boundaries, flags, possessive quantifiers, more than 2^18 states.
  static Constraint regex(std::string_view pattern);

  /// Compact JSON documents (no white space; properties in the schema's order, others after them; a string's quotes, backslashes and control characters
  /// as \" \\ \b \f \n \r \t \u00xx, all others as themselves) that the schema allows: type, enum, const, properties, required, additionalProperties (if it is not there and
  /// `properties` is: false), min/maxProperties, items, prefixItems, min/maxItems, min/maxLength, pattern, format (date, time, date-time, uuid, email,
  /// hostname, ipv4, uri), minimum, maximum and their exclusive forms, nullable, anyOf, oneOf (as anyOf), allOf, $ref within the document, recursion.
  /// A schema without `type` whose keywords are about one type is read as being of that type. Not all that a schema allows can be said (numbers have up to
  /// 18 digits, bounded ones no exponent; strings and arrays up to 4096 elements where they have a maximum), but what is said is valid.
  /// Throws UnsupportedError: a keyword that would change what is valid and is not in this list, with its JSON pointer; ConfigError: a keyword
  /// that makes no sense, or a schema that no document satisfies.
  static Constraint json_schema(const Json& schema);
  /// The same of a schema's text. Throws FormatError too.
  static Constraint json_schema(std::string_view schema);

  /// Whether `text` is one of them.
  bool matches(std::string_view text) const;

  /// What the constraint was made from: equal for equal constraints.
  const std::string& source() const noexcept;

  /// A tokenizer's vocabulary, laid out for this. Building it takes a moment (some 10 ms for 32'000 tokens); it may be shared by many constraints.
  class Vocabulary;
  static std::shared_ptr<const Vocabulary> vocabulary(const Tokenizer& tokenizer);

  /// This constraint on a vocabulary. `continues`: the answer goes on behind other text. Otherwise it begins a text, and a blank that the tokenizer's decoder
  /// strips there (SentencePiece's) is not part of it. Throws UnsupportedError: a tokenizer whose decoder makes a token's text depend on its neighbours;
  /// ArgumentError: a vocabulary in which the constraint cannot be spelled.
  Constraint on(std::shared_ptr<const Vocabulary> vocabulary, bool continues = false) const;
  Constraint on(const Tokenizer& tokenizer, bool continues = false) const;
  bool has_vocabulary() const noexcept { return bound_ != nullptr; }

  /// How far an answer has come: one for each answer, handed to the calls below. It remembers the last ids that it was asked about, so that a step costs one
  /// token; it is never wrong, whatever ids come next.
  class State {
   public:
    State() = default;

   private:
    friend class Constraint;
    std::shared_ptr<const void> of_;
    std::uint64_t epoch_ = 0;
    std::vector<TokenId> ids_;
    std::vector<std::uint32_t> states_;
  };

  /// The tokens that may follow `answer`: bit id % 64 of word id / 64. `ends` are the tokens that end an answer; `remaining` (> 0) is how many tokens it
  /// may still get. Throws ArgumentError: no vocabulary, or an answer that has left the constraint; UnsupportedError: no token goes on
  /// from here, which a vocabulary that has all bytes rules out.
  void allowed(State& state, std::span<const TokenId> answer, std::span<const TokenId> ends, std::size_t remaining, std::vector<std::uint64_t>& mask) const;
  /// Whether the answer is one of the texts, and no byte can follow it; without `ends`, also where no token fits into what remains.
  bool complete(State& state, std::span<const TokenId> answer, std::span<const TokenId> ends, std::size_t remaining) const;
  /// A number of tokens in which some answer can be spelled, without the end token. Throws ArgumentError: no vocabulary.
  std::size_t shortest() const;

 private:
  struct Language;
  struct Bound;
  explicit Constraint(std::shared_ptr<const Language> language) : language_(std::move(language)) {}
  std::shared_ptr<const Language> language_;
  std::shared_ptr<Bound> bound_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/constraint.ipp>
#endif
