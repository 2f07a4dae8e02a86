#!/usr/bin/env python3
"""Which texts regular expressions match, by Python's re.fullmatch with re.ASCII: regex.json."""
import json
import os
import random
import re

PATTERNS = [
    "", "a", "abc", "a|b", "a|", "ab|cd|ef", "(ab|cd)ef", "a*", "a+", "a?", "(ab)*", "(a|b)*c", "a{3}", "a{2,4}", "a{2,}", "a{,3}", "(ab){1,2}c",
    "a*?b", "a+?", "a??b", "a{1,3}?b", "[abc]", "[^abc]", "[a-c]+", "[^a-c]+", "[a\\-c]", "[-a]", "[a-]", "[]a]", "[^]a]", "[\\]a]", "[\\d]", "[^\\d]", "[\\w.-]+",
    "\\d+", "\\D+", "\\w+", "\\W+", "\\s+", "\\S+", "\\d{3}-\\d{4}", "[+-]?\\d+(\\.\\d+)?", ".", ".*", ".+b", "a.c", "\\.", "\\*\\+\\?", "\\(\\)", "\\[\\]", "\\\\", "\\^\\$",
    "^a$", "^(a|b)$", "(^a|^b)c", "a(b$|c$)", "\\Aab\\Z", "(?:ab)+", "(?P<n>a)b", "(a(b(c)?)?)?", "((a|b)|(c|d))*", "(a*)*", "(a*)+b", "(a|ab)(c|bcd)(d*)", "x{a", "x{", "x{1", "a{1}{",
    "é+", "[é-ü]+", "[а-я]{2,3}", "[^a]", "日本|中国", "[\\u4e00-\\u9fff]+", "\\x41\\x42", "\\u00e9", "\\n\\t\\r", "[\\n]", "😀?", "[😀-😂]", "[^😀]", "(?:[01]\\d|2[0-3]):[0-5]\\d",
    "[A-Za-z_][A-Za-z0-9_]*", "[^@\\s]+@[^@\\s]+\\.[a-z]{2,}", "(red|green|blue)(,(red|green|blue)){0,3}", "(19|20)\\d\\d", "0|[1-9]\\d*", "\"([^\"\\\\]|\\\\.)*\"", "(a{0,2}b){2,3}",
    "[ -~]*", "[\\x00-\\x1f]", "[^\\x00-\\x7f]+", "\\-", "\\/", "a\\ b", "[.]", "[$^*]", "a||b", "(|a)b", "()", "()a", "(a){0}", "(a){0,0}b", "[a-c-e]", "[\\s\\S]", "[\\w\\W]{2}", "[^\\W\\d]",
]
ALPHABET = list("abcdefxyz0189ABZ_.-+*?()[]{}^$\\/\"@ \n\t\r,:'~") + ["é", "ü", "ж", "я", "日", "本", "中", "国", "😀", "😂", "\u00a0", "\u0660", "\u2028", "\x7f", "\x00", "\uffff", "\U0010ffff"]
WORDS = ["ab", "abc", "abcd", "cd", "ef", "aaa", "aaaa", "12", "123-4567", "-1.5", "red", "red,green", "blue,blue,red,green,blue", "1999", "2024", "007", "0", "10", "\"a\\\"b\"", "a@b.cd", "23:59",
         "24:00", "日本", "中国", "éé", "xx", "x{a", "x{", "x{1", "a{1}", "AB", "\n\t\r", "aab", "bab", "aabaab", "bb", "foo_1", "a b", "a-c", "^$", "*+?", "()", "[]"]


def candidates(rng):
    texts = {"", *WORDS, *ALPHABET}
    for _ in range(300):
        texts.add("".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 5))))
    for _ in range(200):
        texts.add("".join(rng.choice("abc") for _ in range(rng.randint(1, 7))))
    for word in WORDS:
        texts.add(word + rng.choice(ALPHABET))
        texts.add(rng.choice(ALPHABET) + word)
        texts.add(word[:-1])
    return sorted(texts)


def main():
    rng = random.Random(4)
    texts = candidates(rng)
    cases = []
    for pattern in PATTERNS:
        compiled = re.compile(pattern, re.ASCII)
        yes = [t for t in texts if compiled.fullmatch(t)]
        no = [t for t in texts if not compiled.fullmatch(t)]
        if len(yes) > 25:
            yes = rng.sample(yes, 25)
        cases.append({"pattern": pattern, "yes": sorted(yes), "no": sorted(rng.sample(no, min(len(no), 25)))})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "regex.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases) + "\n]\n")


main()
