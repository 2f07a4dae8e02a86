#pragma once

#include <chiasm/impl/image/bytes.hpp>
#include <chiasm/impl/image/cmyk.hpp>
#include <chiasm/io/jpeg_turbo.hpp>

#include <csetjmp>
#include <cstdio>  // jpeglib.h needs FILE and size_t
#include <utility>
#include <vector>

#include <jpeglib.h>

namespace chiasm::inline CHIASM_ABI {
namespace detail {

/// One decompression. libjpeg leaves its calls by longjmp where it finds an error, so every step below keeps nothing that
/// needs a destructor between setjmp and the library, and reports by its return value.
class JpegTurbo {
 public:
  explicit JpegTurbo(const ImageBytes& file) {
    jpeg_.err = jpeg_std_error(&errors_);
    errors_.error_exit = [](j_common_ptr jpeg) { std::longjmp(*static_cast<std::jmp_buf*>(jpeg->client_data), 1); };
    errors_.emit_message = [](j_common_ptr, int) {};  // warnings: Pillow takes what was decoded
    errors_.output_message = [](j_common_ptr) {};
    source_.next_input_byte = file.data;
    source_.bytes_in_buffer = file.size;
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.fill_input_buffer = [](j_decompress_ptr jpeg) -> boolean {
      jpeg->err->msg_code = end_of_file;
      (*jpeg->err->error_exit)(reinterpret_cast<j_common_ptr>(jpeg));
      return FALSE;
    };
    source_.skip_input_data = [](j_decompress_ptr jpeg, long count) {
      if (count <= 0) return;
      if (static_cast<unsigned long>(count) > jpeg->src->bytes_in_buffer) (*jpeg->src->fill_input_buffer)(jpeg);
      jpeg->src->next_input_byte += count;
      jpeg->src->bytes_in_buffer -= static_cast<std::size_t>(count);
    };
  }
  JpegTurbo(const JpegTurbo&) = delete;
  JpegTurbo& operator=(const JpegTurbo&) = delete;
  ~JpegTurbo() { jpeg_destroy_decompress(&jpeg_); }

  bool read_header() {
    std::jmp_buf jump;
    if (setjmp(jump)) return false;
    jpeg_.client_data = &jump;
    jpeg_create_decompress(&jpeg_);
    jpeg_.src = &source_;
    jpeg_read_header(&jpeg_, TRUE);
    jpeg_.out_color_space = jpeg_.num_components == 4 ? JCS_CMYK : JCS_RGB;
    return true;
  }
  int width() const { return static_cast<int>(jpeg_.image_width); }
  int height() const { return static_cast<int>(jpeg_.image_height); }
  bool cmyk() const { return jpeg_.num_components == 4; }

  /// All rows, `stride` bytes apart: RGB, or CMYK as the file has it.
  bool read_rows(std::uint8_t* to, std::size_t stride) {
    std::jmp_buf jump;
    if (setjmp(jump)) return false;
    jpeg_.client_data = &jump;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = to + stride * jpeg_.output_scanline;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    return true;
  }

  std::size_t position(const ImageBytes& file) const { return file.size - source_.bytes_in_buffer; }
  std::string problem() {
    if (errors_.msg_code == end_of_file) return "truncated JPEG";
    char text[JMSG_LENGTH_MAX];
    (*errors_.format_message)(reinterpret_cast<j_common_ptr>(&jpeg_), text);
    return std::string("JPEG: ") + text;
  }

 private:
  static constexpr int end_of_file = -1;
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
};

}  // namespace detail

inline Image decode_jpeg_turbo(std::span<const std::byte> bytes, const std::string& name) {
  const detail::ImageBytes file{{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), name}};
  detail::JpegTurbo jpeg(file);
  if (!jpeg.read_header()) file.fail(jpeg.position(file), jpeg.problem());
  file.check_size(0, jpeg.width(), jpeg.height());
  Image image(jpeg.width(), jpeg.height());
  const std::size_t pixels = image.pixels().size() / 3;
  if (!jpeg.cmyk()) {
    if (!jpeg.read_rows(image.pixels().data(), static_cast<std::size_t>(image.width()) * 3)) file.fail(jpeg.position(file), jpeg.problem());
    return image;
  }
  std::vector<std::uint8_t> inks(pixels * 4);
  if (!jpeg.read_rows(inks.data(), static_cast<std::size_t>(image.width()) * 4)) file.fail(jpeg.position(file), jpeg.problem());
  for (std::size_t i = 0; i < pixels; ++i) detail::inverted_cmyk_to_rgb(inks.data() + 4 * i, image.pixels().data() + 3 * i);
  return image;
}

}  // namespace chiasm
