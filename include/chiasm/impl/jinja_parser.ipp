// Jinja's parser: tokens to a syntax tree. Names are numbered, so that running a template compares no strings.
#pragma once

#include <chiasm/impl/jinja_lexer.ipp>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Op : std::uint8_t {
    constant,
    name,
    tuple,
    list,
    dict,
    attribute,
    item,
    slice,
    call,
    filter,
    test,
    not_,
    minus,
    plus,
    add,
    subtract,
    multiply,
    divide,
    floor_divide,
    modulo,
    power,
    concat,
    compare,
    and_,
    or_,
    conditional
  };
  Op op = Op::constant;
  std::uint32_t line = 1, depth = 1;
  std::uint32_t name = 0;  // of Op::name: its number
  std::string text;        // of an attribute, filter or test: its name
  Value constant;
  std::vector<ExprPtr> parts;                             // a slice's bounds, and a filter block's subject, may be missing
  std::vector<std::string> operators;                     // of compare
  std::vector<std::pair<std::string, ExprPtr>> keywords;  // of call, filter, test
  ExprPtr spread, spread_keywords;                        // f(*spread, **spread_keywords)
};

struct Target {  // what `set` and `for` assign to: a name, an attribute of a namespace, or a tuple of these
  std::uint32_t name = 0;
  std::string attribute;
  std::vector<Target> parts;
  bool is_tuple = false;
};

struct Stmt;
using Body = std::vector<Stmt>;

struct Signature {  // of a macro or a call block
  std::vector<std::uint32_t> names;
  std::vector<ExprPtr> defaults;                         // of the last names
  bool varargs = false, kwargs = false, caller = false;  // read in the body
};

struct Stmt {
  enum class Op : std::uint8_t { text, print, if_, for_, set, set_block, macro, call, filter, with, scope, break_, continue_ };
  Op op = Op::text;
  std::uint32_t line = 1;
  std::string text;
  std::vector<ExprPtr>
      exprs;  // print: values; if: conditions; for: iterable and filter; set: value; filter, set block: filters; with: values
  std::vector<Target> targets;
  std::vector<Body> bodies;  // if: one per condition, then else; for: body, else
  Signature signature;
  std::uint32_t name = 0;
  bool recursive = false;
};

struct Program {
  std::string file;
  std::vector<std::string> names;
  Body body;
};

// Numbers of names that the language itself gives a meaning.
enum Name : std::uint32_t { name_loop, name_caller, name_varargs, name_kwargs };

class Parser {
 public:
  Parser(std::vector<Token> tokens, Program& program) : tokens_(std::move(tokens)), program_(program) {
    for (const char* name : {"loop", "caller", "varargs", "kwargs"}) number(name);
  }
  void run() { program_.body = body({}); }

 private:
  // A tree deeper than this is no chat template; evaluating and freeing it recurses.
  static constexpr std::uint32_t max_depth = 256, max_open = 64;
  struct Nested {
    Parser& parser;
    explicit Nested(Parser& p) : parser(p) {
      if (++parser.open_ > max_open) parser.fail("nested deeper than " + std::to_string(max_open) + " levels");
    }
    ~Nested() { --parser.open_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void next() { at_ = std::min(at_ + 1, tokens_.size() - 1); }
  [[noreturn]] void fail(const std::string& what) const { fail(now(), what); }
  [[noreturn]] void fail(const Token& token, const std::string& what) const {
    throw FormatError(program_.file, token.byte, "line " + std::to_string(token.line) + ": " + what);
  }
  [[noreturn]] void unsupported(const Token& token, const std::string& what) const {
    throw UnsupportedError(program_.file + ": line " + std::to_string(token.line) + ": " + what);
  }
  static std::string describe(const Token& token) {
    switch (token.kind) {
      case Token::Kind::end:
        return "the end of the template";
      case Token::Kind::data:
        return "text";
      case Token::Kind::print_begin:
        return "'{{'";
      case Token::Kind::print_end:
        return "'}}'";
      case Token::Kind::tag_begin:
        return "'{%'";
      case Token::Kind::tag_end:
        return "'%}'";
      case Token::Kind::string:
        return "a string";
      case Token::Kind::name:
      case Token::Kind::integer:
      case Token::Kind::number:
      case Token::Kind::op:
        break;
    }
    return "'" + token.text + "'";
  }
  bool is_op(std::string_view op) const { return now().kind == Token::Kind::op && now().text == op; }
  bool is_name(std::string_view name) const { return now().kind == Token::Kind::name && now().text == name; }
  bool skip_op(std::string_view op) {
    const bool there = is_op(op);
    if (there) next();
    return there;
  }
  bool skip_name(std::string_view name) {
    const bool there = is_name(name);
    if (there) next();
    return there;
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail("'" + std::string(op) + "' expected, found " + describe(now()));
  }
  void expect(Token::Kind kind, const char* what) {
    if (now().kind != kind) fail(std::string(what) + " expected, found " + describe(now()));
    next();
  }
  std::string expect_identifier() {
    if (now().kind != Token::Kind::name) fail("a name expected, found " + describe(now()));
    std::string name = now().text;
    next();
    return name;
  }
  std::uint32_t number(const std::string& name) {
    const auto [place, added] = numbers_.try_emplace(name, static_cast<std::uint32_t>(program_.names.size()));
    if (added) program_.names.push_back(name);
    return place->second;
  }

  // --- expressions, loosest first

  ExprPtr make(Expr::Op op, const Token& token) const {
    auto expr = std::make_unique<Expr>();
    expr->op = op;
    expr->line = token.line;
    return expr;
  }
  void adopt(Expr& parent, ExprPtr child) const {
    if (child) {
      parent.depth = std::max(parent.depth, child->depth + 1);
      if (parent.depth > max_depth) fail("expression nested deeper than " + std::to_string(max_depth) + " levels");
    }
    parent.parts.push_back(std::move(child));
  }
  ExprPtr binary(Expr::Op op, const Token& token, ExprPtr left, ExprPtr right) const {
    ExprPtr expr = make(op, token);
    adopt(*expr, std::move(left));
    adopt(*expr, std::move(right));
    return expr;
  }

  ExprPtr expression() {
    const Nested nested(*this);
    ExprPtr value = either();
    while (is_name("if")) {
      const Token token = now();
      next();
      ExprPtr expr = make(Expr::Op::conditional, token);
      adopt(*expr, either());
      adopt(*expr, std::move(value));
      adopt(*expr, skip_name("else") ? expression() : nullptr);
      value = std::move(expr);
    }
    return value;
  }
  ExprPtr either() {
    ExprPtr left = both();
    while (is_name("or")) {
      const Token token = now();
      next();
      left = binary(Expr::Op::or_, token, std::move(left), both());
    }
    return left;
  }
  ExprPtr both() {
    ExprPtr left = negation();
    while (is_name("and")) {
      const Token token = now();
      next();
      left = binary(Expr::Op::and_, token, std::move(left), negation());
    }
    return left;
  }
  ExprPtr negation() {
    if (!is_name("not")) return comparison();
    const Nested nested(*this);
    ExprPtr expr = make(Expr::Op::not_, now());
    next();
    adopt(*expr, negation());
    return expr;
  }
  ExprPtr comparison() {
    const Token token = now();
    ExprPtr left = sum(), expr;
    for (;;) {
      std::string op;
      if (now().kind == Token::Kind::op &&
          (is_op("==") || is_op("!=") || is_op("<") || is_op("<=") || is_op(">") || is_op(">="))) {
        op = now().text;
      } else if (is_name("in")) {
        op = "in";
      } else if (is_name("not") && ahead().kind == Token::Kind::name && ahead().text == "in") {
        op = "not in";
        next();
      } else {
        break;
      }
      next();
      if (!expr) {
        expr = make(Expr::Op::compare, token);
        adopt(*expr, std::move(left));
      }
      expr->operators.push_back(op);
      adopt(*expr, sum());
    }
    return expr ? std::move(expr) : std::move(left);
  }
  ExprPtr sum() {
    ExprPtr left = concatenation();
    while (is_op("+") || is_op("-")) {
      const Token token = now();
      next();
      left = binary(token.text == "+" ? Expr::Op::add : Expr::Op::subtract, token, std::move(left), concatenation());
    }
    return left;
  }
  ExprPtr concatenation() {
    ExprPtr left = product();
    if (!is_op("~")) return left;
    ExprPtr expr = make(Expr::Op::concat, now());
    adopt(*expr, std::move(left));
    while (skip_op("~")) adopt(*expr, product());
    return expr;
  }
  ExprPtr product() {
    ExprPtr left = power();
    while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
      const Token token = now();
      next();
      const Expr::Op op = token.text == "*"    ? Expr::Op::multiply
                          : token.text == "/"  ? Expr::Op::divide
                          : token.text == "//" ? Expr::Op::floor_divide
                                               : Expr::Op::modulo;
      left = binary(op, token, std::move(left), power());
    }
    return left;
  }
  ExprPtr power() {
    ExprPtr left = unary(true);
    while (is_op("**")) {
      const Token token = now();
      next();
      left = binary(Expr::Op::power, token, std::move(left), unary(true));
    }
    return left;
  }
  // A minus binds tighter than a filter: -1|abs is (-1)|abs.
  ExprPtr unary(bool with_filters) {
    ExprPtr value;
    if (is_op("-") || is_op("+")) {
      const Nested nested(*this);
      value = make(is_op("-") ? Expr::Op::minus : Expr::Op::plus, now());
      next();
      adopt(*value, unary(false));
    } else {
      value = primary();
    }
    value = postfix(std::move(value));
    return with_filters ? filters(std::move(value)) : std::move(value);
  }

  ExprPtr primary() {
    const Token token = now();
    switch (token.kind) {
      case Token::Kind::name: {
        next();
        const std::string& name = token.text;
        ExprPtr expr = make(Expr::Op::constant, token);
        if (name == "true" || name == "True") {
          expr->constant = Value(true);
        } else if (name == "false" || name == "False") {
          expr->constant = Value(false);
        } else if (name != "none" && name != "None") {
          expr->op = Expr::Op::name;
          expr->name = number(name);
          for (Signature* signature : signatures_) {
            if (name == "varargs") signature->varargs = true;
            if (name == "kwargs") signature->kwargs = true;
            if (name == "caller") signature->caller = true;
          }
        }
        return expr;
      }
      case Token::Kind::string: {
        std::string text;
        for (; now().kind == Token::Kind::string; next()) text += now().text;
        ExprPtr expr = make(Expr::Op::constant, token);
        expr->constant = Value(std::move(text));
        return expr;
      }
      case Token::Kind::integer:
      case Token::Kind::number: {
        next();
        ExprPtr expr = make(Expr::Op::constant, token);
        expr->constant = token.value;
        return expr;
      }
      case Token::Kind::op:
        if (token.text == "(") {
          next();
          ExprPtr expr = tuple(true, true);
          expect_op(")");
          return expr;
        }
        if (token.text == "[") {
          ExprPtr expr = make(Expr::Op::list, token);
          next();
          while (!is_op("]")) {
            if (!expr->parts.empty()) expect_op(",");
            if (is_op("]")) break;
            adopt(*expr, expression());
          }
          expect_op("]");
          return expr;
        }
        if (token.text == "{") {
          ExprPtr expr = make(Expr::Op::dict, token);
          next();
          while (!is_op("}")) {
            if (!expr->parts.empty()) expect_op(",");
            if (is_op("}")) break;
            adopt(*expr, expression());
            expect_op(":");
            adopt(*expr, expression());
          }
          expect_op("}");
          return expr;
        }
        break;
      default:
        break;
    }
    fail("an expression expected, found " + describe(token));
  }

  // a, b, c without brackets, or one expression.
  ExprPtr tuple(bool with_conditional, bool in_parentheses) {
    const Token token = now();
    std::vector<ExprPtr> parts;
    bool is_tuple = false;
    for (;;) {
      if (!parts.empty()) expect_op(",");
      if (now().kind == Token::Kind::print_end || now().kind == Token::Kind::tag_end || is_op(")") ||
          (!with_conditional && is_name("recursive")))
        break;
      parts.push_back(with_conditional ? expression() : either());
      if (!is_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !parts.empty()) return std::move(parts.front());
    if (!is_tuple && !in_parentheses) fail("an expression expected, found " + describe(now()));
    ExprPtr expr = make(Expr::Op::tuple, token);
    for (ExprPtr& part : parts) adopt(*expr, std::move(part));
    return expr;
  }

  ExprPtr postfix(ExprPtr value) {
    for (;;) {
      const Token token = now();
      if (skip_op(".")) {
        if (now().kind == Token::Kind::integer) {
          ExprPtr index = make(Expr::Op::constant, now());
          index->constant = now().value;
          next();
          value = binary(Expr::Op::item, token, std::move(value), std::move(index));
        } else {
          ExprPtr expr = make(Expr::Op::attribute, token);
          expr->text = expect_identifier();
          adopt(*expr, std::move(value));
          value = std::move(expr);
        }
      } else if (skip_op("[")) {
        std::vector<ExprPtr> keys;
        while (!is_op("]")) {
          if (!keys.empty()) expect_op(",");
          keys.push_back(subscript());
        }
        if (keys.empty()) fail("an index expected, found ']'");
        expect_op("]");
        if (keys.size() > 1) {
          ExprPtr several = make(Expr::Op::tuple, token);
          for (ExprPtr& key : keys) adopt(*several, std::move(key));
          keys.front() = std::move(several);
        }
        value = binary(Expr::Op::item, token, std::move(value), std::move(keys.front()));
      } else if (is_op("(")) {
        value = call(std::move(value));
      } else {
        return value;
      }
    }
  }
  ExprPtr subscript() {
    const Token token = now();
    ExprPtr first = is_op(":") ? nullptr : expression();
    if (!is_op(":")) return first;
    ExprPtr expr = make(Expr::Op::slice, token);
    adopt(*expr, std::move(first));
    for (int bound = 0; bound < 2; ++bound) {
      const bool given = skip_op(":") && !is_op(":") && !is_op("]") && !is_op(",");
      adopt(*expr, given ? expression() : nullptr);
    }
    return expr;
  }
  ExprPtr call(ExprPtr callee) {
    ExprPtr expr = make(Expr::Op::call, now());
    adopt(*expr, std::move(callee));
    arguments(*expr);
    return expr;
  }
  void arguments(Expr& expr) {
    const Nested nested(*this);
    const auto ensure = [&](bool right) {
      if (!right) fail("misplaced argument");
    };
    const auto own = [&](ExprPtr value) {
      adopt(expr, std::move(value));  // for the depth
      ExprPtr back = std::move(expr.parts.back());
      expr.parts.pop_back();
      return back;
    };
    expect_op("(");
    for (bool first = true; !is_op(")"); first = false) {
      if (!first) {
        expect_op(",");
        if (is_op(")")) break;
      }
      if (skip_op("*")) {
        ensure(!expr.spread && !expr.spread_keywords);
        expr.spread = own(expression());
      } else if (skip_op("**")) {
        ensure(!expr.spread_keywords);
        expr.spread_keywords = own(expression());
      } else if (now().kind == Token::Kind::name && ahead().kind == Token::Kind::op && ahead().text == "=") {
        ensure(!expr.spread_keywords);
        std::string name = expect_identifier();
        next();
        for (const auto& [other, value] : expr.keywords)
          if (other == name) fail("argument '" + name + "' stands twice");
        expr.keywords.emplace_back(std::move(name), own(expression()));
      } else {
        ensure(!expr.spread && !expr.spread_keywords && expr.keywords.empty());
        adopt(expr, expression());
      }
    }
    expect_op(")");
  }
  std::string dotted() {
    std::string name = expect_identifier();
    while (skip_op(".")) name += "." + expect_identifier();
    return name;
  }
  ExprPtr filter(ExprPtr value) {
    ExprPtr expr = make(Expr::Op::filter, now());
    expr->text = dotted();
    adopt(*expr, std::move(value));
    if (is_op("(")) arguments(*expr);
    return expr;
  }
  ExprPtr filters(ExprPtr value) {
    for (;;) {
      if (skip_op("|")) {
        value = filter(std::move(value));
      } else if (is_name("is")) {
        value = test(std::move(value));
      } else if (is_op("(")) {
        value = call(std::move(value));
      } else {
        return value;
      }
    }
  }
  ExprPtr test(ExprPtr value) {
    const Token token = now();
    next();
    const bool negated = skip_name("not");
    ExprPtr expr = make(Expr::Op::test, token);
    expr->text = dotted();
    adopt(*expr, std::move(value));
    if (is_op("(")) {
      arguments(*expr);
    } else if ((now().kind == Token::Kind::name && !is_name("else") && !is_name("or") && !is_name("and")) ||
               now().kind == Token::Kind::string || now().kind == Token::Kind::integer || now().kind == Token::Kind::number ||
               is_op("[") || is_op("{")) {
      if (is_name("is")) fail("tests cannot be chained with 'is'");
      const Nested nested(*this);
      adopt(*expr, postfix(primary()));
    }
    if (!negated) return expr;
    ExprPtr negation = make(Expr::Op::not_, token);
    adopt(*negation, std::move(expr));
    return negation;
  }

  // --- statements

  Target target_name() {
    const Token token = now();
    const std::string name = expect_identifier();
    for (const char* constant : {"true", "false", "True", "False", "none", "None"})
      if (name == constant) fail(token, "'" + name + "' cannot be assigned to");
    Target target;
    target.name = number(name);
    return target;
  }
  Target target_part(bool with_attribute) {
    if (is_op("(")) {
      const Nested nested(*this);
      next();
      Target target = target_tuple(with_attribute, true);
      expect_op(")");
      return target;
    }
    Target target = target_name();
    if (with_attribute && skip_op(".")) target.attribute = expect_identifier();
    return target;
  }
  Target target_tuple(bool with_attribute, bool in_parentheses) {
    Target tuple;
    for (;;) {
      if (!tuple.parts.empty()) expect_op(",");
      if (now().kind == Token::Kind::tag_end || is_op(")") || is_name("in")) break;
      tuple.parts.push_back(target_part(with_attribute));
      if (!is_op(",")) break;
      tuple.is_tuple = true;
    }
    if (!tuple.is_tuple && tuple.parts.size() == 1) {
      Target only = std::move(tuple.parts.front());
      return only;
    }
    if (tuple.parts.empty() && !in_parentheses) fail("a name expected, found " + describe(now()));
    tuple.is_tuple = true;
    return tuple;
  }
  void signature(Signature& result) {
    expect_op("(");
    while (!is_op(")")) {
      if (!result.names.empty()) expect_op(",");
      result.names.push_back(target_name().name);
      if (skip_op("=")) {
        result.defaults.push_back(expression());
      } else if (!result.defaults.empty()) {
        fail("a parameter without default follows one with default");
      }
    }
    expect_op(")");
  }

  // Statements up to {% one of `ends`; that name is then the current token. Without ends: up to the end of the text.
  Body body(std::initializer_list<std::string_view> ends) {
    const Nested nested(*this);
    Body statements;
    for (;;) {
      const Token token = now();
      switch (token.kind) {
        case Token::Kind::end:
          if (ends.size() != 0) {
            std::string wanted;
            for (const std::string_view end : ends) wanted += (wanted.empty() ? "'" : "' or '") + std::string(end);
            fail("the template ends where " + wanted + "' is expected");
          }
          return statements;
        case Token::Kind::data: {
          Stmt& statement = statements.emplace_back();
          statement.line = token.line;
          statement.text = token.text;
          next();
          break;
        }
        case Token::Kind::print_begin: {
          next();
          Stmt& statement = statements.emplace_back();
          statement.op = Stmt::Op::print;
          statement.line = token.line;
          statement.exprs.push_back(tuple(true, false));
          expect(Token::Kind::print_end, "'}}'");
          break;
        }
        default:
          expect(Token::Kind::tag_begin, "'{%'");
          for (const std::string_view end : ends)
            if (is_name(end)) return statements;
          statements.push_back(statement());
          expect(Token::Kind::tag_end, "'%}'");
      }
    }
  }
  // The rest of a tag, and the statements up to one of `ends`.
  Body block(std::initializer_list<std::string_view> ends) {
    skip_op(":");
    expect(Token::Kind::tag_end, "'%}'");
    return body(ends);
  }
  Body last_block(std::string_view end) {
    Body statements = block({end});
    next();
    return statements;
  }

  Stmt statement() {
    const Token token = now();
    const std::string tag = expect_identifier();
    Stmt result;
    result.line = token.line;
    if (tag == "if") {
      result.op = Stmt::Op::if_;
      for (;;) {
        result.exprs.push_back(tuple(false, false));
        result.bodies.push_back(block({"elif", "else", "endif"}));
        if (skip_name("elif")) continue;
        if (skip_name("else"))
          result.bodies.push_back(last_block("endif"));
        else
          next();
        break;
      }
    } else if (tag == "for") {
      result.op = Stmt::Op::for_;
      ++fors_;
      result.targets.push_back(target_tuple(false, false));
      keep_loop(token, result.targets[0]);
      if (!skip_name("in")) fail("'in' expected, found " + describe(now()));
      result.exprs.push_back(tuple(false, false));
      if (skip_name("if")) result.exprs.push_back(expression());
      result.recursive = skip_name("recursive");
      ++loops_;
      result.bodies.push_back(block({"endfor", "else"}));
      --loops_;
      if (skip_name("else"))
        result.bodies.push_back(last_block("endfor"));
      else
        next();
      --fors_;
    } else if (tag == "set") {
      result.targets.push_back(target_tuple(true, false));
      keep_loop(token, result.targets[0]);
      if (skip_op("=")) {
        result.op = Stmt::Op::set;
        result.exprs.push_back(tuple(true, false));
      } else {
        result.op = Stmt::Op::set_block;
        while (skip_op("|")) result.exprs.push_back(filter(nullptr));
        result.bodies.push_back(function_body("endset"));
      }
    } else if (tag == "macro") {
      result.op = Stmt::Op::macro;
      result.name = target_name().name;
      signatures_.push_back(&result.signature);
      signature(result.signature);
      result.bodies.push_back(function_body("endmacro"));
      signatures_.pop_back();
    } else if (tag == "call") {
      result.op = Stmt::Op::call;
      if (is_op("(")) signature(result.signature);
      result.exprs.push_back(expression());
      if (result.exprs[0]->op != Expr::Op::call) fail(token, "'call' needs a call");
      signatures_.push_back(&result.signature);
      result.bodies.push_back(function_body("endcall"));
      signatures_.pop_back();
    } else if (tag == "filter") {
      result.op = Stmt::Op::filter;
      result.exprs.push_back(filter(nullptr));
      while (skip_op("|")) result.exprs.push_back(filter(nullptr));
      result.bodies.push_back(function_body("endfilter"));
    } else if (tag == "with") {
      result.op = Stmt::Op::with;
      while (now().kind != Token::Kind::tag_end) {
        if (!result.targets.empty()) expect_op(",");
        result.targets.push_back(target_part(false));
        expect_op("=");
        result.exprs.push_back(expression());
      }
      result.bodies.push_back(last_block("endwith"));
    } else if (tag == "generation") {
      result.op = Stmt::Op::scope;
      result.bodies.push_back(function_body("endgeneration"));
    } else if (tag == "print") {
      result.op = Stmt::Op::print;
      while (now().kind != Token::Kind::tag_end) {
        if (!result.exprs.empty()) expect_op(",");
        result.exprs.push_back(expression());
      }
    } else if (tag == "break" || tag == "continue") {
      result.op = tag == "break" ? Stmt::Op::break_ : Stmt::Op::continue_;
      if (loops_ == 0) fail(token, "'" + tag + "' outside of a loop");
    } else {
      for (const char* known : {"include", "import", "from", "extends", "block", "autoescape", "do", "trans"})
        if (tag == known) unsupported(token, "tag '" + tag + "'");
      fail(token, "unknown tag '" + tag + "'");
    }
    return result;
  }
  // Inside of a for, and as its target, `loop` is not assigned to.
  void keep_loop(const Token& token, const Target& target) const {
    if (fors_ > 0 && !target.is_tuple && target.attribute.empty() && target.name == name_loop) fail(token, "'loop' cannot be assigned to in a 'for'");
    for (const Target& part : target.parts) keep_loop(token, part);
  }
  // The body of something that gathers its output: break and continue do not reach out of it.
  Body function_body(std::string_view end) {
    const std::uint32_t loops = std::exchange(loops_, 0);
    Body statements = last_block(end);
    loops_ = loops;
    return statements;
  }

  std::vector<Token> tokens_;
  Program& program_;
  std::unordered_map<std::string, std::uint32_t> numbers_;
  std::vector<Signature*> signatures_;
  std::size_t at_ = 0;
  std::uint32_t open_ = 0, loops_ = 0, fors_ = 0;
};

}  // namespace detail::jinja
}  // namespace chiasm::inline CHIASM_ABI
