/// What a call throws.
#pragma once

#include "support/catch.hpp"

#include <chiasm/core/error.hpp>

#include <string>

/// The error that f() throws; the test fails where nothing is thrown.
template <class E, class F>
E caught(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error;
  }
  FAIL("nothing thrown");
  throw;
}

/// What the error says that f() throws; "nothing thrown" where none is.
template <class E = chiasm::Error, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing thrown";
}
