// Ask twice, pay once: with what is kept between calls, answers and logits are those of a pipeline that keeps nothing.
#include "support/catch.hpp"
#include "support/exactly.hpp"
#include "support/paths.hpp"

#include <chiasm/chiasm.hpp>
#include <chiasm/io/image_file.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

namespace {

std::string bundled() { return source_dir() + "/examples/models/shapes-llava"; }
std::string picture(int number) {
  return source_dir() + "/examples/pictures/shapes-" + (number < 10 ? "0" : "") + std::to_string(number) + ".png";
}

chiasm::Pipeline forgetful(const std::string& folder) {
  chiasm::LoadOptions options;
  options.picture_cache_bytes = options.prefix_cache_bytes = 0;
  return chiasm::load(folder, std::move(options));
}

/// The options of an answer of a known length, every step's scores kept.
struct Recorded {
  chiasm::GenerateOptions options;
  std::vector<std::vector<float>> scores;

  explicit Recorded(std::size_t tokens) : options(exactly(tokens)) {
    options.logits_processor = [this](std::span<const chiasm::TokenId>, std::span<float> row) { scores.emplace_back(row.begin(), row.end()); };
  }
};

void check_equal(const Recorded& have, const Recorded& want) {
  REQUIRE(have.scores.size() == want.scores.size());
  double largest = 0, difference = 0;
  for (std::size_t step = 0; step < have.scores.size(); ++step)
    for (std::size_t i = 0; i < have.scores[step].size(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(want.scores[step][i])));
      difference = std::max(difference, std::fabs(static_cast<double>(want.scores[step][i]) - static_cast<double>(have.scores[step][i])));
    }
  CHECK(difference <= 1e-5 * largest);
}

const std::vector<std::string> questions = {"What colour is the object closest to the star?", "How many objects are there?",
                                            "Is there a red circle?\nAnswer the question using a single word or phrase."};

std::string temporary(const std::string& name) { return (std::filesystem::temp_directory_path() / ("chiasm-" + name)).string(); }

}  // namespace

TEST_CASE("several questions about a picture: one encoding, and the same answers and logits") {
  for (const std::string& folder : {bundled(), test_data("cases/llava_mistral/model")}) {
    INFO(folder);
    const chiasm::Pipeline keeping = chiasm::load(folder), fresh = forgetful(folder);
    for (int number : {1, 2, 1, 12}) {
      const chiasm::Image image = chiasm::load_image(picture(number));
      for (std::size_t i = 0; i < questions.size(); ++i) {
        chiasm::Context ctx = keeping.new_context(), other = fresh.new_context();
        Recorded have(6), want(6);
        const chiasm::Reply kept = keeping.generate(ctx, {image, questions[i]}, have.options), anew = fresh.generate(other, {image, questions[i]}, want.options);
        CHECK(kept.ids == anew.ids);
        CHECK(kept.text == anew.text);
        CHECK(kept.prompt_tokens == anew.prompt_tokens);
        check_equal(have, want);
        CHECK(anew.reused_pictures == 0);
        CHECK(anew.reused_tokens == 0);
        CHECK(kept.prompt_pictures == 1);
        if (i > 0) {
          CHECK(kept.reused_pictures == 1);
          CHECK(kept.reused_tokens * 3 > kept.prompt_tokens);
          CHECK(kept.times.prefill_tokens == kept.prompt_tokens - kept.reused_tokens);
        }
      }
    }
  }
}

TEST_CASE("a conversation reads what was said once") {
  const chiasm::Pipeline vlm = chiasm::load(bundled()), fresh = forgetful(bundled());
  chiasm::Conversation talk(vlm);
  std::vector<chiasm::Message> messages;
  chiasm::Prompt first{chiasm::load_image(picture(2)), questions[0]};
  const std::vector<chiasm::Prompt> turns = {first, questions[1], chiasm::Prompt{chiasm::load_image(picture(3)), "And this?"}, questions[2]};
  for (std::size_t i = 0; i < turns.size(); ++i) {
    chiasm::Context ctx = vlm.new_context(), other = fresh.new_context();
    Recorded have(5), want(5);
    const chiasm::Reply kept = talk.ask(ctx, turns[i], have.options);
    messages.push_back({"user", turns[i]});
    const chiasm::Reply anew = fresh.chat(other, messages, want.options);
    messages.push_back({"assistant", anew.text});
    CHECK(kept.ids == anew.ids);
    check_equal(have, want);
    if (i > 0) CHECK(kept.reused_tokens > 64);
  }
  CHECK(talk.messages().size() == 8);

  SECTION("others who ask about the same picture take nothing from it") {
    CHECK(vlm.answer(chiasm::load_image(picture(2)), questions[1]) == fresh.answer(chiasm::load_image(picture(2)), questions[1]));
    chiasm::Context ctx = vlm.new_context();
    CHECK(talk.ask(ctx, questions[1]).reused_tokens > 128);
  }
  SECTION("and can go back") {
    talk.rewind(2);
    chiasm::Context ctx = vlm.new_context();
    const chiasm::Reply again = talk.ask(ctx, turns[1], Recorded(5).options);
    CHECK(again.reused_tokens > 64);
    CHECK(again.text == std::string(messages[3].content.parts()[0].text()));
  }
}

TEST_CASE("a conversation is saved and goes on from the file") {
  const std::string file = temporary("conversation.safetensors");
  const chiasm::Pipeline vlm = chiasm::load(bundled());
  chiasm::Conversation talk(vlm, "You see shapes.");
  chiasm::Image image = chiasm::load_image(picture(4));
  image.set_transparent(std::array<std::uint8_t, 3>{1, 2, 3});
  std::vector<std::uint8_t> alpha(image.pixels().size() / 3, 255);
  alpha[1] = 7;
  image.set_alpha(alpha);
  image.set_indexed(true);
  const auto shared = std::make_shared<const chiasm::Image>(image);
  talk.ask({shared, "What is \"this\"?\n\\ \x01 \xC3\xA9"});
  talk.ask({shared, questions[1]});
  talk.save(file);

  const chiasm::Pipeline later = chiasm::load(bundled());
  chiasm::Conversation again = chiasm::Conversation::restore(later, file);
  REQUIRE(again.messages().size() == talk.messages().size());
  for (std::size_t i = 0; i < talk.messages().size(); ++i) {
    CHECK(again.messages()[i].role == talk.messages()[i].role);
    const auto &have = again.messages()[i].content.parts(), &want = talk.messages()[i].content.parts();
    REQUIRE(have.size() == want.size());
    for (std::size_t j = 0; j < have.size(); ++j) {
      CHECK(have[j].text() == want[j].text());
      CHECK((have[j].image() == nullptr) == (want[j].image() == nullptr));
      if (have[j].image() != nullptr) CHECK(*have[j].image() == *want[j].image());
    }
  }
  chiasm::Context ctx = later.new_context(), other = vlm.new_context();
  Recorded have(6), want(6);
  const chiasm::Reply restored = again.ask(ctx, questions[2], have.options), kept = talk.ask(other, questions[2], want.options);
  CHECK(restored.ids == kept.ids);
  CHECK(restored.reused_tokens == kept.reused_tokens);
  CHECK(restored.reused_tokens > 128);
  check_equal(have, want);

  SECTION("an empty one, too") {
    chiasm::Conversation(vlm).save(file);
    CHECK(chiasm::Conversation::restore(later, file).messages().empty());
  }
  SECTION("not with another model") {
    CHECK_THROWS_AS(chiasm::Conversation::restore(chiasm::load(source_dir() + "/examples/models/stories260k"), file), chiasm::WeightError);
    // One of the same shapes: the bundled model with two layers of its language model exchanged.
    const std::string folder = temporary("exchanged");
    std::filesystem::remove_all(folder);
    std::filesystem::copy(bundled(), folder);
    const std::string weights = folder + "/model.safetensors";
    std::string bytes;
    {
      std::ifstream in(weights, std::ios::binary);
      bytes.assign(std::istreambuf_iterator<char>(in), {});
    }
    for (const auto& [from, to] : {std::pair("model.layers.0.", "model.layers.X."), std::pair("model.layers.1.", "model.layers.0."),
                                   std::pair("model.layers.X.", "model.layers.1.")})
      for (std::size_t at = bytes.find(std::string("language_model.") + from); at != std::string::npos; at = bytes.find(std::string("language_model.") + from, at))
        bytes.replace(at, 15 + std::string(from).size(), std::string("language_model.") + to);
    std::ofstream(weights, std::ios::binary) << bytes;
    CHECK_THROWS_AS(chiasm::Conversation::restore(chiasm::load(folder), file), chiasm::WeightError);
    std::filesystem::remove_all(folder);
  }
  SECTION("and not from another file, or from a part of it") {
    CHECK_THROWS_AS(chiasm::Conversation::restore(later, bundled() + "/model.safetensors"), chiasm::FormatError);
    CHECK_THROWS_AS(chiasm::Conversation::restore(later, file + ".missing"), chiasm::FileError);
    std::filesystem::resize_file(file, std::filesystem::file_size(file) - 4);
    CHECK_THROWS_AS(chiasm::Conversation::restore(later, file), chiasm::FormatError);
    CHECK_THROWS_AS(talk.save(temporary("no-such-folder") + "/x.safetensors"), chiasm::FileError);
  }
  std::filesystem::remove(file);
}

TEST_CASE("a turn that fails, or is cancelled, leaves a conversation that goes on") {
  const chiasm::Pipeline vlm = chiasm::load(bundled()), fresh = forgetful(bundled());
  chiasm::Conversation talk(vlm);
  const chiasm::Prompt first{chiasm::load_image(picture(5)), questions[0]};
  Recorded five(5);
  chiasm::GenerateOptions wrong = five.options;
  wrong.top_p = 7;
  CHECK_THROWS_AS(talk.ask(first, wrong), chiasm::ArgumentError);
  CHECK_THROWS_AS(talk.ask(first, five.options, [](std::string_view) -> bool { throw std::runtime_error("the user's own"); }), std::runtime_error);
  CHECK(talk.messages().empty());
  int pieces = 0;
  talk.ask(first, five.options, [&](std::string_view) { return ++pieces < 2; });  // stopped after a piece: stays as it is
  REQUIRE(talk.messages().size() == 2);
  std::vector<chiasm::Message> messages = talk.messages();
  messages.push_back({"user", questions[1]});
  CHECK(talk.ask(questions[1], five.options) == fresh.chat(messages, five.options));
}

TEST_CASE("threads that share a pipeline share what it keeps") {
  const chiasm::Pipeline vlm = chiasm::load(bundled()), fresh = forgetful(bundled());
  std::vector<chiasm::Image> images;
  for (int number = 1; number <= 3; ++number) images.push_back(chiasm::load_image(picture(number)));
  std::vector<std::string> want, have(36);
  for (std::size_t i = 0; i < have.size(); ++i) want.push_back(fresh.answer(images[i % 3], questions[i / 3 % 3]));
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < have.size(); i += 4) have[i] = vlm.answer(images[i % 3], questions[i / 3 % 3]);
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(have == want);
}

TEST_CASE("what is kept stays within its bounds") {
  chiasm::LoadOptions options;
  options.picture_cache_bytes = 100'000;  // two pictures of 64 rows of 160 numbers
  options.prefix_cache_bytes = 2'000'000;
  const chiasm::Pipeline vlm = chiasm::load(bundled(), std::move(options));
  for (int number = 1; number <= 12; ++number) {
    vlm.caption(chiasm::load_image(picture(number)));
    CHECK(vlm.pictures().bytes() <= 100'000);
    CHECK(vlm.prefixes().bytes() <= 2'000'000);
  }
  CHECK(vlm.pictures().bytes() > 0);
  CHECK(vlm.prefixes().bytes() > 0);
}
