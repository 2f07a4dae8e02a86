// This translation unit is compiled with -march=native, the other one is not.
#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

std::string answer(const chiasm::Pipeline& vlm, const chiasm::Image& image, const char* question) {
  return vlm.answer(image, question);
}
