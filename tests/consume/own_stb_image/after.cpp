// The user's stb_image.h after chiasm's header.
#include <chiasm/io/image_file.hpp>

#include <stb_image.h>

bool same_size(const char* path) {
  int width = 0, height = 0, channels = 0;
  unsigned char* pixels = stbi_load(path, &width, &height, &channels, 3);
  stbi_image_free(pixels);
  const chiasm::Image image = chiasm::load_image(path);
  return width == image.width() && height == image.height();
}
