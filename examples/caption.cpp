/// caption: says what pictures show. Files and folders in, one line per picture out.
#include "options.hpp"
#include "pictures.hpp"

#include <chiasm/io/image_file.hpp>

#include <fstream>

int main(int count, char** arguments) {
  CLI::App app("Captions pictures. Without arguments: the bundled model captions the bundled pictures.", "caption");
  examples::Options options(app, examples::bundled("models/shapes-llava"));
  options.add_style(app);
  options.add_generation(app);
  std::vector<std::string> paths = {examples::bundled("pictures")};
  std::string request, output;
  app.add_option("pictures", paths, "Pictures, and folders of pictures");
  app.add_option("--prompt", request, "Ask this instead of what the model's family was trained to be asked");
  app.add_option("-o,--output", output, "Write JSON lines to this file");
  return examples::run(app, count, arguments, [&] {
    const std::vector<std::string> files = examples::pictures(paths);
    std::ofstream file;
    if (!output.empty()) {
      file.open(output);
      if (!file) throw chiasm::FileError(output, "cannot be written");
    }
    const bool json = options.json || !output.empty();
    const chiasm::Pipeline vlm = options.load();
    chiasm::Context ctx = vlm.new_context();
    const examples::Interrupt interrupt(ctx.cancel_token());
    examples::Progress progress("captions");
    int failures = 0;
    for (std::size_t i = 0; i < files.size() && !ctx.cancel_token().cancelled(); ++i) {
      if (json) progress(files[i], i, files.size());
      const std::string name = std::filesystem::path(files[i]).filename().string();
      nlohmann::ordered_json line = {{"image", files[i]}};
      try {
        const chiasm::Image image = chiasm::load_image(files[i]);
        const chiasm::Prompt prompt = request.empty() ? vlm.caption_prompt(image) : chiasm::Prompt{image, request};
        if (!json) std::cout << name << ": " << std::flush;
        const chiasm::Reply reply = vlm.generate(ctx, prompt, options.generation(), [&](std::string_view piece) {
          if (!json) std::cout << piece << std::flush;
          return true;
        });
        line.update(examples::describe(reply));
        if (!json) std::cout << std::endl;
      } catch (const chiasm::Cancelled&) {
        break;
      } catch (const chiasm::Error& error) {  // one bad picture of a thousand must not end the run
        ++failures;
        line["error"] = error.what();
        if (!json) {
          progress.clear();
          std::cerr << "caption: " << error.what() << std::endl;
          continue;
        }
      }
      if (!json) continue;
      progress.clear();
      examples::print_json(line, output.empty() ? std::cout : file);
    }
    return failures == 0 ? 0 : 1;
  });
}
