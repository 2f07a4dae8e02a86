// The user's own copy of stb_image, with external linkage.
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>
