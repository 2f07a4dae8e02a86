// Uses the shared library, and catches what chiasm throws inside it by its type.
#include "seer.hpp"

#include <chiasm/core/error.hpp>

#include <iostream>

int main(int, char** arguments) {
  try {
    see("/no/such/model", arguments[2], arguments[3]);
    return 1;
  } catch (const chiasm::Error& error) {
    std::cout << "caught: " << error.what() << "\n";
  }
  std::cout << "answer: " << see(arguments[1], arguments[2], arguments[3]) << "\n";
}
