"""Settings: the file, the environment, and one helpful sentence for every mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lls.config import Config, LogFormat, TlsMode, addresses, load, problems, rendered
from lls.faults import SetupFault

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "lls.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def test_the_shipped_file_is_what_the_code_says() -> None:
    assert rendered() == Path("config/lls.toml").read_text(encoding="utf-8")


def test_the_shipped_file_means_the_defaults_with_and_without_its_hashes(write: Write) -> None:
    assert Config() == load(write(rendered()), {})
    lines = [line[1:] if line.startswith("#") and line[1] != " " else line for line in rendered().splitlines()]
    assert Config() == load(write("\n".join(lines)), {})


def test_every_setting_says_what_it_does() -> None:
    lines = rendered().splitlines()
    settings = [at for at, line in enumerate(lines) if line.startswith("#") and line[1] != " "]
    assert 20 < len(settings)
    assert [] == [lines[at] for at in settings if not lines[at - 1].startswith("# ")]


def test_the_contracts_names_and_defaults_stand() -> None:
    config = Config()
    assert ("lls", ("0.0.0.0:6501",)) == (config.server.name, config.server.listen)
    assert ("/var/lib/lls", "/run/lls/admin.sock") == (config.server.state_dir, config.server.admin_socket)
    assert ("", "self", "", "") == (config.store.url, config.tls.mode, config.tls.cert, config.tls.key)
    assert ("/etc/lls/vendor.llskeys", "") == (config.trust.keys, config.policy.file)
    assert (300, 30, 10) == (config.clock.tolerance_seconds, config.lease.grace_seconds, config.lease.proof_seconds)


def test_a_file_sets_what_it_names_and_nothing_else(write: Write) -> None:
    config = load(write('[server]\nname = "north"\nlisten = ["127.0.0.1:0", "[::1]:7"]\n[tls]\nmode = "off"'), {})
    assert ("north", ("127.0.0.1:0", "[::1]:7"), TlsMode.OFF) == (
        config.server.name,
        config.server.listen,
        config.tls.mode,
    )
    assert 10_000 == config.server.queue_limit


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("LLS__SERVER__NAME", "south", lambda config: config.server.name == "south"),
        ("LLS__SERVER__LISTEN", "10.0.0.1:1, [::]:2", lambda config: config.server.listen == ("10.0.0.1:1", "[::]:2")),
        ("LLS__SERVER__LISTEN", "[::]:2,10.0.0.1:1", lambda config: config.server.listen == ("[::]:2", "10.0.0.1:1")),
        ("LLS__SERVER__LISTEN", '["10.0.0.1:1"]', lambda config: config.server.listen == ("10.0.0.1:1",)),
        ("LLS__SERVER__PROXY_SPKI_SHA256", "[]", lambda config: config.server.proxy_spki_sha256 == ()),
        ("LLS__SERVER__SHOW_PRODUCTS", "false", lambda config: config.server.show_products is False),
        ("LLS__SERVER__LOG_FORMAT", "json", lambda config: config.server.log_format is LogFormat.JSON),
        ("LLS__LEASE__GRACE_SECONDS", "45", lambda config: config.lease.grace_seconds == 45),
    ],
)
def test_the_environment_wins_over_the_file(
    write: Write, variable: str, text: str, read: Callable[[Config], bool]
) -> None:
    path = write('[server]\nname = "north"\nlisten = ["127.0.0.1:9"]\n')
    assert read(load(path, {variable: text, "LLS_SERVER": "https://is-the-clients", "PATH": "/bin"}))


MISTAKES = [
    ("[sever]\n", "[sever]: there is no such table; did you mean server?"),
    ("[zzz]\n", "there is no such table; known are server, store,"),
    ("server = 3", "[server] must be a table"),
    ("[server]\nlissten = []", "[server] lissten: there is no such setting; did you mean listen?"),
    ("[server]\nname = 3", "[server] name must be a text in quotes"),
    ('[server]\nname = " "', "[server] name must have 1 to 100 characters"),
    ("[server]\nqueue_limit = true", "[server] queue_limit must be a whole number"),
    ("[server]\nqueue_limit = 0", "[server] queue_limit must be between 1 and 1000000; it is 0"),
    ("[server]\nfailures_per_minute = 0", "[server] failures_per_minute must be at least 1; it is 0"),
    ("[server]\nshow_products = 1", "[server] show_products must be true or false"),
    ('[server]\nlog_level = "loud"', "[server] log_level must be one of debug, info, warning, error"),
    ('[server]\nlisten = "0.0.0.0:6501"', "[server] listen must be a list of texts"),
    ("[server]\nlisten = []", "[server] listen needs at least one address"),
    ('[server]\nlisten = ["6501"]', '"6501" is not host:port'),
    ('[server]\nlisten = ["::1:6501"]', '"::1:6501" is not host:port'),
    ('[server]\nlisten = ["a:65536"]', '"a:65536" is not host:port'),
    ('[server]\nlisten = ["[a]:1"]', '"[a]:1" is not host:port'),
    ('[server]\nlisten = ["http://a:1"]', "is not host:port"),
    ('[server]\nstate_dir = "here"', "[server] state_dir must be an absolute path"),
    ('[server]\nproxy_spki_sha256 = ["abc"]', "[server] proxy_spki_sha256 holds"),
    ('[store]\nurl = "mysql://x"', "[store] url must be empty"),
    ('[tls]\nmode = "files"\ncert = "/c"', "[tls] mode files needs both cert and key"),
    ('[tls]\ncert = "/c"\nkey = "/k"', '[tls] cert and key are only used with mode = "files"'),
    ('[tls]\nmode = "off"', "[tls] mode off would send secrets in clear from 0.0.0.0:6501"),
    ('[trust]\nkeys = ""', "[trust] keys must name"),
    ('[access]\nallow = ["10.0.0.1/8"]', '[access] allow: "10.0.0.1/8" is no network such as 10.0.0.0/8'),
    ('[access]\ntrusted_proxies = ["proxy"]', '[access] trusted_proxies: "proxy" is no network'),
    ('[access]\nforwarded_header = "x-real-ip"', "[access] forwarded_header must be one of x-forwarded-for, forwarded"),
    ('[access]\nclient_certificate = "maybe"', "[access] client_certificate must be one of required, optional"),
    ('[admin]\nallow = ["10.0.0.0/33"]', '[admin] allow: "10.0.0.0/33" is no network'),
    ("[admin]\nsession_idle_seconds = 10", "[admin] session_idle_seconds must be between 60 and 86400"),
    ("[admin]\nsession_seconds = 60", "[admin] session_seconds must be at least session_idle_seconds"),
    (
        '[server]\nlisten = ["127.0.0.1:1"]\n[tls]\nmode = "off"\n[access]\nclient_ca = "/ca.pem"',
        "[access] client_ca needs TLS",
    ),
    (
        '[server]\nplain_http_off_loopback = true\n[tls]\nmode = "off"\n[admin]\nhttp = true',
        "[admin] http is answered only on ways that nobody can read",
    ),
    ("[lease]\ngrace_seconds = 5", "[lease] grace_seconds (5) must be at least proof_seconds (10)"),
    ("[lease\n", "this is not TOML"),
]


@pytest.mark.parametrize(("text", "sentence"), MISTAKES)
def test_a_mistake_in_the_file_is_one_sentence_that_names_file_table_and_key(
    write: Write, text: str, sentence: str
) -> None:
    path = write(text)
    with pytest.raises(SetupFault) as refused:
        load(path, {})
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("LLS__SEVER__NAME", "x", "LLS__SEVER__NAME: there is no such table; did you mean server?"),
        ("LLS__SERVER__NAM", "x", "LLS__SERVER__NAM: there is no such setting; did you mean name?"),
        ("LLS__NAME", "x", "LLS__NAME: a setting in the environment is written LLS__TABLE__NAME"),
        ("LLS__LEASE__PROOF_SECONDS", "ten", "LLS__LEASE__PROOF_SECONDS must be a whole number"),
        ("LLS__LEASE__PROOF_SECONDS", "0", "LLS__LEASE__PROOF_SECONDS must be between 1 and 3600"),
        ("LLS__SERVER__SHOW_PRODUCTS", "maybe", "LLS__SERVER__SHOW_PRODUCTS must be true or false"),
        ("LLS__TLS__MODE", "on", "LLS__TLS__MODE must be one of self, files, off"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(write: Write, variable: str, text: str, sentence: str) -> None:
    with pytest.raises(SetupFault) as refused:
        load(write(""), {variable: text})
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("listen", ['"127.0.0.1:1"', '"[::1]:1"', '"localhost:1"'])
def test_plain_http_is_free_on_loopback(write: Write, listen: str) -> None:
    assert TlsMode.OFF is load(write(f'[server]\nlisten = [{listen}]\n[tls]\nmode = "off"'), {}).tls.mode


def test_plain_http_elsewhere_takes_a_second_word(write: Write) -> None:
    text = '[server]\nplain_http_off_loopback = true\n[tls]\nmode = "off"'
    assert TlsMode.OFF is load(write(text), {}).tls.mode


def test_addresses_are_taken_apart() -> None:
    found = addresses(Config().server)
    assert [("0.0.0.0", 6501, False)] == [(one.host, one.port, one.is_loopback) for one in found]  # noqa: S104 - a default


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SetupFault, match="there is no such file"):
        load(tmp_path / "none.toml", {})
    with pytest.raises(SetupFault, match="there is no such file"):
        load(None, {"LLS_CONFIG": str(tmp_path / "none.toml")})


def test_the_named_file_wins_over_the_variable_and_the_default_may_be_missing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('[server]\nname = "named"')
    assert "named" == load(path, {"LLS_CONFIG": str(tmp_path / "none.toml")}).server.name
    assert "named" == load(None, {"LLS_CONFIG": str(path)}).server.name
    monkeypatch.setattr("lls.config.DEFAULT_PATH", tmp_path / "none.toml")
    assert Config() == load(None, {})


def test_a_directory_is_not_a_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SetupFault, match="cannot be read"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, {}),
        ("[server]\nqueue_limit = " + "9" * 5000, {}),
        ("[server]\nqueue_limit = " + "9" * 4000, {}),
        ("[server]\nfailures_per_minute = " + "9" * 4000, {}),
        ("", {"LLS__LEASE__GRACE_SECONDS": "9" * 5000}),
        ("", {"LLS__SERVER__LISTEN": "[" * 100_000}),
        ("", {"LLS__SERVER__LISTEN": "127.0.0.1:" + "0" * 5000}),
        ("", {"LLS__SERVER__NAME": "\udcff"}),
        ('[server]\nname = "a\\u001b[31m"', {}),
        ('[server]\nstate_dir = "/tmp/a\\u0000b"', {}),
        ('[trust]\nkeys = "/tmp/a\\u0000b"', {}),
        ('[server]\nlisten = ["bücher.local:0"]', {}),
    ],
)
def test_what_exhausts_a_reader_or_steers_a_terminal_is_one_short_sentence(
    write: Write, text: str, environ: dict[str, str]
) -> None:
    with pytest.raises(SetupFault) as caught:
        load(write(text), environ)
    assert len(caught.value.detail) < 500
    assert caught.value.detail.isprintable()


def test_every_mistake_is_told_at_once_and_one_mistake_once(write: Write) -> None:
    path = write('[server]\nnme = "x"\nlisten = ["nowhere"]\nqueue_limit = 0\n[lease]\ngrace_seconds = 1\n[tsl]\na = 1')
    found = problems(path, {"LLS__CLOCK__TOLERANCE_SECONDS": "soon"})
    expected = [
        "[tsl]",
        "[server] nme",
        "[server] queue_limit",
        "LLS__CLOCK__TOLERANCE_SECONDS",
        "listen:",
        "[lease] grace",
    ]
    assert len(expected) == len(found), found
    assert [] == [(word, told) for word, told in zip(expected, found, strict=True) if word not in told]


def test_a_webhook_that_is_mistyped_is_not_repeated(write: Write) -> None:
    path = write('[events]\nwebhook_urls = ["https://a/", "htps://me:hush@chat/T0KEN"]\nwebhook_secret_file = "/x"')
    (sentence,) = problems(path, {})
    assert "address 2" in sentence
    assert "T0KEN" not in sentence


def test_where_nothing_is_wrong_there_is_no_problem(write: Write, tmp_path: Path) -> None:
    assert [] == problems(write(rendered()), {})
    assert 1 == len(problems(tmp_path / "missing.toml", {}))
