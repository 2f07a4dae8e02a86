/// vqa: answers questions about a picture. Without a question it asks for them, one after the other.
#include "heat.hpp"
#include "options.hpp"

#include <chiasm/io/image_file.hpp>

int main(int count, char** arguments) {
  CLI::App app("Answers a question about a picture. With a picture and no question: reads questions from standard input.", "vqa");
  examples::Options options(app, examples::bundled("models/shapes-llava"));
  options.add_style(app);
  options.add_generation(app);
  std::string picture = examples::bundled("pictures/shapes-01.png"), question, heat;
  bool short_answer = false;
  auto* const picture_given = app.add_option("picture", picture, "The picture")->capture_default_str();
  app.add_option("question", question, "The question");
  app.add_flag("--short", short_answer, "Ask for a word or a phrase, in the words that the model's family was trained with");
  app.add_option("--explain", heat, "Write the picture to this PNG file, under a heat map of where the answer came from");
  return examples::run(app, count, arguments, [&] {
    if (picture_given->empty()) question = "How many objects are there?";
    const chiasm::Image image = chiasm::load_image(picture);
    const chiasm::Pipeline vlm = options.load();
    const auto answer = [&](const std::string& asked) {
      chiasm::Context ctx = vlm.new_context();
      const examples::Interrupt interrupt(ctx.cancel_token());
      const chiasm::Prompt prompt = short_answer ? vlm.answer_prompt(image, asked) : chiasm::Prompt{image, asked};
      const auto show = [&](std::string_view piece) {
        if (!options.json) std::cout << piece << std::flush;
        return true;
      };
      chiasm::Reply reply;
      nlohmann::ordered_json where;
      if (heat.empty()) {
        reply = vlm.generate(ctx, prompt, options.generation(), show);
      } else {
        chiasm::Explained explained = chiasm::explain(vlm, prompt, options.generation(), show, ctx.cancel_token());
        if (explained.pictures.empty()) throw chiasm::Cancelled();
        examples::write_heat(heat, image, explained.pictures.front());
        const chiasm::HeatMap::Point centre = explained.pictures.front().centre();
        where = {{"file", heat}, {"x", centre.x}, {"y", centre.y}};
        reply = std::move(explained.reply);
      }
      if (!options.json) {
        std::cout << std::endl;
        return;
      }
      nlohmann::ordered_json line = {{"image", picture}, {"question", asked}};
      line.update(examples::describe(reply));
      if (!where.is_null()) line["explained"] = where;
      examples::print_json(line);
    };
    if (!question.empty()) {
      answer(question);
      return 0;
    }
    const bool prompt_user = examples::is_terminal(0) && !options.json;
    while (true) {
      if (prompt_user) std::cout << "> " << std::flush;
      if (!std::getline(std::cin, question)) return 0;
      if (question.empty()) continue;
      try {
        answer(question);
      } catch (const chiasm::Error& error) {  // stopped, or a question that cannot be put: the next one may
        std::cerr << "vqa: " << error.what() << std::endl;
      }
    }
  });
}
