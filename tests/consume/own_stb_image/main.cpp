// The user's stb_image.h before chiasm's header.
#include <stb_image.h>

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <iostream>

bool same_size(const char* path);

int main(int, char** arguments) {
  int width = 0, height = 0, channels = 0;
  if (stbi_info(arguments[2], &width, &height, &channels) == 0 || !same_size(arguments[2])) return 1;
  const chiasm::Pipeline vlm = chiasm::load(arguments[1]);
  std::cout << "answer: " << vlm.answer(chiasm::load_image(arguments[2]), arguments[3]) << "\n";
}
