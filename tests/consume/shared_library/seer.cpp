// A shared library with hidden visibility that keeps chiasm inside.
#include "seer.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

std::string see(const char* model, const char* picture, const char* question) {
  return chiasm::load(model).answer(chiasm::load_image(picture), question);
}
