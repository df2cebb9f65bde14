"""Live: pw template against Jinja2 (as transformers sets it up) on small random templates and on the field's chat templates with random conversations. Prints what was
compared; exits 1 when a rendering differs, or when one side renders and the other refuses. Arguments: --seed N, --templates N."""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import tempfile
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import _compile_jinja_template

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PW = os.path.join(ROOT, "pw")
SHARED = os.environ.get("PW_SHARED", os.path.join(ROOT, "..", "shared"))
VARS = {"s": "  Ab cd\u00e9 \U0001f600 'q' <b> ", "n": None, "t": True, "f": False, "i": 7, "j": -3, "x": 2.5, "l": [3, 1, 2], "ls": ["b", "A", "c", ""], "e": [], "z": {},
        "d": {"b": 1, "a": [1, {"z": None}], "items2": "v"}, "ll": [[1, "x"], [2, "y"]], "text": "line one\nline  two\n\nend", "num": "12", "users": [{"name": "Bo", "age": 3}, {"name": "al", "age": 30}, {"name": "Cy"}]}


class Maker:
    """Expressions and statements out of a small grammar, most of them well typed."""

    def __init__(self, r):
        self.r = r
        self.names = []

    def pick(self, *a):
        return self.r.choice(a)

    def lit(self):
        r = self.r
        return self.pick("1", "0", "-2", "2.5", "'ab'", "'a b'", "\"x\\n\"", "''", "none", "true", "False", "[]", "{}", "[1, 2]", "(1, 'b')", "('a',)", "{'k': 1, 'j': 'v'}", str(r.randrange(100)), "1e3", "'%'")

    def string(self, d):
        if d <= 0:
            return self.pick("s", "text", "num", "'a,b,c'", "'hello world'", "'é😀'", "''", "ls[0]", "users[0].name", "d.items2")
        a = "(" + self.string(d - 1) + ")" if self.r.random() < .5 else self.string(0)
        return self.pick(
            f"{a}.strip()", f"{a}.upper()", f"{a}.lower()", f"{a}.title()", f"{a}.capitalize()", f"{a}.lstrip()", f"{a}.rstrip('d')", f"{a}.replace('a', {self.string(0)})", f"({a} ~ {self.expr(d - 1)})",
            f"{a}|trim", f"{a}|upper", f"{a}|lower", f"{a}|title", f"{a}|capitalize", f"({a} + {self.string(d - 1)})", f"{a}[{self.int()}:{self.int()}]", f"{a}[::-1]", f"{a}[:{self.int()}]", f"({a} * 2)",
            f"{a}|replace('b', 'BB')", f"{a}|indent(2)", f"{a}|e", f"({self.cond(d - 1)} and {a} or {self.string(0)})", f"({a} if {self.cond(d - 1)} else {self.string(d - 1)})", f"{a}|default('q')",
            f"{a}|string", f"{a}.join({self.list(d - 1)}|map('string'))", f"{self.list(d - 1)}|join({self.string(0)})", f"{self.expr(d - 1)}|tojson", f"{self.expr(d - 1)}|string", f"{a}|first", f"{a}|last",
            f"'%s-%d' % ({a}, {self.num()})", f"{a}.split('b')[0]", f"{a}|reverse", f"{a}.removeprefix('a')", f"{a}|wordcount",
            f"{a}.partition(' ')[2]", f"{self.expr(d - 1)}|tojson(indent=2)", f"{a}|trim('a')")

    def num(self):
        return self.pick("1", "2", "0", "-1", "3", "i", "j", "x", "l[0]", "s|length", "(i + 1)", "7 // 2", "-7 % 3", "l|length", "users|length", "'5'|int", "2 ** 3", "l|sum", "l|max", "x|round", "x|int", "(j|abs)",
                         "'3.5'|float", "i // 2", "text|length", "ls.index('c')", "text.count('e')", "text.find('two')", "10 - i")

    def int(self):
        """Slices of texts that are constants are taken while compiling, where a float gives an undefined value instead of an error."""
        return self.pick("1", "2", "0", "-1", "3", "i", "j", "l[0]", "s|length", "'5'|int", "x|int", "none" if self.r.random() < .1 else "4")

    def list(self, d):
        if d <= 0:
            return self.pick("l", "ls", "e", "[1, 'a', none]", "range(3)|list", "ll", "users", "(1, 2)", "['x', 'y', 'x']", "'a b c'.split()", "d.keys()|list", "z|list")
        a = "(" + self.list(d - 1) + ")" if self.r.random() < .5 else self.list(0)
        return self.pick(f"{a}|list", f"{a}[1:]", f"{a}[:-1]", f"{a}[::-1]", f"{a}|reverse|list", f"({a} + {self.list(0)})", f"({self.string(d - 1)}).split()", f"({self.string(d - 1)}).split(',')", f"l|sort", f"ls|sort",
                         f"ls|map('upper')|list", f"users|map(attribute='name')|list", f"users|selectattr('age', 'defined')|list", f"users|rejectattr('age')|list", f"{a}|select('string')|list", f"{a}|reject('none')|list",
                         f"{a}|unique|list", f"d|dictsort", f"d.items()|list", f"d.values()|list", f"range({self.int()})|list", f"users|sort(attribute='name')", f"l|select('odd')|list",
                         f"users|map(attribute='age', default=0)|list", f"({self.string(d - 1)}).splitlines()", f"{self.string(d - 1)}|list", f"users|selectattr('age', '>', 4)|list", f"l|map('string')|list",
                         f"users|selectattr('name', 'equalto', 'Bo')|list", f"ls|sort(reverse=true)", f"ls|select|list", f"l|reject('equalto', 2)|list", f"({a}, 1)", f"users|selectattr('name', 'in', ls)|list", f"d|items|list")

    def cond(self, d):
        if d <= 0:
            return self.pick("t", "f", "n", "i", "e", "s", "l", "nope", "n is none", "i is number", "s is string", "nope is defined", "l is iterable", "d is mapping", "i is odd", "x is float", "t is boolean", "'a' in ls", "1 in l",
                             "'k' not in d", "i > 3", "i == 7.0", "s != ''", "1 < i <= 7", "l is sequence", "users[2].age is defined", "not f", "i is divisibleby 7", "s is not none", "'b' in s", "e == []", "n == none", "t is true", "f is false",
                             "i is integer", "s is upper", "i is eq 7", "i is ge(3)", "l is sameas l", "range is callable", "i in [7, 8]", "d.b is undefined", "d['a'] is defined", "'trim' is filter", "[1, 2] < [1, 3]", "'a' < 'b'")
        return self.pick(f"({self.cond(d - 1)} and {self.cond(d - 1)})", f"({self.cond(d - 1)} or {self.cond(d - 1)})", f"not {self.cond(d - 1)}", f"{self.expr(d - 1)} == {self.expr(d - 1)}", f"{self.expr(d - 1)} is string",
                         f"({self.expr(d - 1)}) in {self.list(d - 1)}", f"({self.string(d - 1)}).startswith('a')", f"({self.string(d - 1)}).endswith(('d', 'e'))", f"({self.string(d - 1)}).isdigit()", f"{self.expr(d - 1)} is iterable",
                         f"{self.num()} < {self.num()}", f"({self.string(d - 1)}).isalpha()", f"{self.expr(d - 1)} is mapping", f"{self.expr(d - 1)} is sequence", f"{self.expr(d - 1)} != {self.lit()}")

    def expr(self, d):
        k = self.r.random()
        if k < .12 or d <= 0:
            return self.pick(self.lit(), self.pick(*VARS), *(self.names[-3:] or ["i"]))
        if k < .45:
            return self.string(d)
        if k < .6:
            return self.num()
        if k < .8:
            return self.list(d)
        if k < .9:
            return self.cond(d)
        return self.pick("nope", "d.nope", "d['a'][1].z", "d.get('b')", "d.get('q', 5)", "d.get('q')", "users[0]['name']", "l[-1]", "loop", "d.a[0]", "namespace(a=1).a", "dict(a=1, b='x')", "ll[0][1]", "l|first", "e|first", "e|last", "s|length",
                         "nope|default([])", "d|length", "not t", "i and s", "-x", "+i", "(1, 2)[1]", "{'a': i}['a']", "users|map(attribute='name')|join(', ')", "x|round(1)", "x|round(0, 'ceil')", "l|min", "'x' * i", "[0] * 3", "1.0", "1e16", "0.1 + 0.2", "3.0 * 2", "7 / 7", "2 ** -1", "1_000")

    def ws(self):
        return self.pick("", "", "", "-", "-", "+") if self.r.random() < .5 else ""

    def block(self, d):
        return "".join(self.stmt(d) for _ in range(self.r.randrange(1, 4)))

    def open(self, body):
        a, b = self.ws(), self.ws()
        return "{%" + a + " " + body + " " + (b if b != "" else "") + "%}"

    def stmt(self, d):
        k = self.r.random()
        if k < .25:
            return self.pick(" ", "\n", "  \n", "\n  ", "a", " b ", "x\ny", "\t", "{ }", "%", "#", "\n\n", "<|im_end|>", "é")
        if k < .6 or d <= 0:
            a, b = self.pick("", "", "-"), self.pick("", "", "-")
            return "{{" + a + " " + self.expr(self.r.randrange(0, 3)) + " " + b + "}}"
        if k < .7:
            e = self.open("else") + self.block(d - 1) if self.r.random() < .4 else ""
            if self.r.random() < .3:
                e = self.open("elif " + self.cond(1)) + self.block(d - 1) + e
            return self.open("if " + self.cond(2)) + self.block(d - 1) + e + self.open("endif")
        if k < .82:
            v = self.pick("a", "b", "m")
            self.names.append(v)
            head = f"for {v} in {self.list(2)}" + self.pick("", "", f" if {v}", f" if {self.cond(0)}")
            if self.r.random() < .15:
                head = "for a, b in " + self.pick("ll", "d.items()", "d|dictsort", "[(1, 2)]", "z.items()")
            inner = self.block(d - 1) + self.pick("", "{{ loop.index }}", "{{ loop.last }}", "{{ loop.index0 }}{{ loop.first }}", "{{ loop.length }}", "{% if loop.index > 2 %}{% break %}{% endif %}", "{% if loop.first %}{% continue %}{% endif %}", "{{ loop.revindex }}",
                                                "{{ loop.cycle('o', 'e') }}", "{{ loop.previtem }}", "{{ loop.nextitem is defined }}", "{{ loop.changed(i) }}", "{{ loop.depth }}")
            e = self.open("else") + self.block(0) if self.r.random() < .2 else ""
            out = self.open(head) + inner + e + self.open("endfor")
            self.names.pop()
            return out
        if k < .9:
            v = self.pick("a", "b", "c")
            self.names.append(v)
            return self.pick(self.open(f"set {v} = {self.expr(2)}"), self.open(f"set {v}") + self.block(0) + self.open("endset"), self.open(f"set a, b = {self.pick('1, 2', 'll[0]', '(i, x)')}"),
                             self.open("set ns = namespace(v=i, w='')") + self.open(f"set ns.v = {self.expr(1)}") + "{{ ns.v }}")
        if k < .94:
            return self.open("macro m1(p, q=2)") + "[{{ p }}{{ q }}]" + self.block(0) + self.open("endmacro") + self.pick("{{ m1(1) }}", f"{{{{ m1({self.expr(1)}, q={self.expr(1)}) }}}}", "{{ m1() }}", "{{ m1(1)|length }}", "{% call m1(2) %}c{% endcall %}")
        return self.pick("{# c #}", "{#- c -#}", "{% raw %}{{ x }}{% endraw %}", self.open("filter upper") + self.block(0) + self.open("endfilter"), self.open("with a = 1, b = i") + self.block(d - 1) + "{{ a }}{{ b }}" + self.open("endwith"),
                         "{% generation %}" + self.block(0) + "{% endgeneration %}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}", "{{ '{{' }}", "{{ \"it's\" }}", "{%- if t -%}\n y \n{%- endif %}\n")


def ours(template, variables, folder):
    with open(os.path.join(folder, "t.jinja"), "w", encoding="utf-8", newline="") as f:
        f.write(template)
    args = [PW, "template", "--template", os.path.join(folder, "t.jinja"), "--messages", os.path.join(folder, "m.json")]
    for k, v in variables.items():
        args += ["--set", f"{k}={json.dumps(v)}"]
    done = subprocess.run(args, capture_output=True, timeout=60)
    return (done.stdout.decode(), None) if done.returncode == 0 else (None, done.stderr.decode().strip())


def theirs(template, variables):
    try:
        return _compile_jinja_template(template).render(messages=[{"role": "user", "content": "hi"}], tools=None, documents=None, add_generation_prompt=False, bos_token="", eos_token="", **variables), None
    except Exception as e: # any refusal, of whatever kind, is a refusal
        return None, f"{type(e).__name__}: {e}"


def fuzz(seed, n):
    differ = refused = unsupported = 0
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "m.json"), "w") as f:
            json.dump([{"role": "user", "content": "hi"}], f)
        for k in range(n):
            template = Maker(random.Random(seed * 1000003 + k)).block(3)
            want, why = theirs(template, VARS)
            got, message = ours(template, VARS, folder)
            if want is None and got is None:
                refused += 1
            elif want is not None and got is None and ("unknown or unsupported" in message or "not supported" in message):
                unsupported += 1
                if os.environ.get("PW_SHOW"):
                    print("  not supported:", message)
            elif want != got and "LoopContext" not in (want or "") and "Markup(" not in (want or "") and " object at 0x" not in (want or "") and "<bound" not in (want or "") and "<generator" not in (want or ""):
                differ += 1
                if differ <= int(os.environ.get("PW_SHOW", "5")):
                    print(f"  {template!r}\n    jinja2 {want!r} {why or ''}\n    pw     {got!r} {message or ''}")
    print(f"templates: seed {seed}, {n} random templates: {differ} renderings differ, {refused} refused by both, {unsupported} not supported by pw")
    return differ


def conversations(seed, n):
    r = random.Random(seed)
    words = ["hello", "world", " ", "\n", "<|im_end|>", "{{ x }}", "é", "😀", "'", '"', "<think>a</think>", "\\", "\t", "1", "</s>", "<b>"]
    say = lambda: "".join(r.choice(words) for _ in range(r.randrange(0, 8)))
    for _ in range(n):
        m = [{"role": "system", "content": say()}] if r.random() < .4 else []
        for _ in range(r.randrange(1, 4)):
            m += [{"role": "user", "content": say()}, {"role": "assistant", "content": say()}]
        if r.random() < .5:
            m.append({"role": "user", "content": say()})
        if r.random() < .2:
            m.insert(-1, {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": say()}}}]})
        tools = [{"type": "function", "function": {"name": "f", "description": say(), "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}] if r.random() < .3 else None
        yield m, tools, r.random() < .5


def chats(seed, n):
    paths = sorted(glob.glob(os.path.join(SHARED, "data/chat_templates/*.jinja"))) + glob.glob(os.path.join(SHARED, "data/tokenizers/smollm2-hf/chat_template.jinja"))
    differ = count = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for p, path in enumerate(paths):
            compiled = _compile_jinja_template(open(path, encoding="utf-8", newline="").read())
            for m, tools, prompt in conversations(seed + p, n):
                count += 1
                try:
                    want = compiled.render(messages=m, tools=tools, documents=None, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
                except Exception:
                    want = None
                with open(os.path.join(folder, "m.json"), "w") as f:
                    json.dump(m, f)
                args = [PW, "template", "--template", path, "--messages", os.path.join(folder, "m.json"), "--set", 'bos_token="<s>"', "--set", 'eos_token="</s>"'] + (["--generation-prompt"] if prompt else [])
                if tools:
                    with open(os.path.join(folder, "t.json"), "w") as f:
                        json.dump(tools, f)
                    args += ["--tools", os.path.join(folder, "t.json")]
                done = subprocess.run(args, capture_output=True)
                got = done.stdout.decode() if done.returncode == 0 else None
                refused += want is None
                if want != got:
                    differ += 1
                    if differ <= 3:
                        print(f"  {os.path.basename(path)}: {m}\n    jinja2 {want!r}\n    pw     {got!r} {done.stderr.decode()}")
    print(f"templates: {len(paths)} chat templates, {count} random conversations ({refused} refused by jinja2): {differ} differ")
    return differ


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--seed", type=int, default=int(time.time()))
    a.add_argument("--templates", type=int, default=3000)
    a.add_argument("--conversations", type=int, default=60)
    a = a.parse_args()
    return 1 if fuzz(a.seed, a.templates) + chats(a.seed, a.conversations) else 0


if __name__ == "__main__":
    sys.exit(main())
