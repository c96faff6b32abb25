"""Messages of all makes: every text in its order, alternatives once, and never a body lost."""

from __future__ import annotations

import base64

import pytest

from benchmarks.made_documents import text_of
from workers.extract import Kind, Unreadable, kind_of

HEAD = "From: Ann <ann@x.org>\nSubject: Hello\nMIME-Version: 1.0\n"
SHOWN = "From: Ann <ann@x.org>\nSubject: Hello\n"
PLAIN, HTML = "Content-Type: text/plain\n\n", "Content-Type: text/html\n\n"
ATTACHED = 'Content-Disposition: attachment; filename="{}"\n\n'
EVENT = (
    "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VTIMEZONE\nTZID:no\nDTSTART:16010101T030000\nEND:VTIMEZONE\nBEGIN:VEVENT\n"
    "SUMMARY:Budget\\, round two\nDTSTART;TZID=Europe/Berlin:20260103T100000\nDTEND:20260103T100000Z\n"
    "DUE;VALUE=DATE:20260104\n"
    "ORGANIZER;CN=Ann:mailto:ann@x.org\nDESCRIPTION:Bring the fig\n ures\nEND:VEVENT\nEND:VCALENDAR\n"
)
EVENT_SHOWN = (
    "Method: REQUEST\nEvent: Budget, round two\nStart: 2026-01-03 10:00 Europe/Berlin\nEnd: 2026-01-03 10:00 UTC\n"
    "Due: 2026-01-04\nOrganizer: Ann <ann@x.org>\nDescription: Bring the figures"
)


def packed(text: str) -> str:
    return base64.encodebytes(text.encode()).decode()


def parts(kind: str, *each: str, boundary: str = "XX", named: str = "XX", ends: bool = True) -> str:
    body = "".join(f"--{boundary}\n{part}\n" for part in each) + (f"--{boundary}--\n" if ends else "")
    return f'{HEAD}Content-Type: multipart/{kind}; boundary="{named}"\n\n{body}'


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (parts("mixed", PLAIN + "One.", PLAIN + "Two.", HTML + "<p>Th<b>ree</b>"), "\nOne.\n\nTwo.\n\nThree"),
        (parts("alternative", PLAIN + "Plain.", HTML + "<p>Html"), "\nPlain."),
        (parts("alternative", PLAIN + " ", HTML + "<p>Html"), "\nHtml"),
        (
            parts("alternative", PLAIN + "See the page.", HTML + "<p>many words here " * 9),
            "\n" + "\n".join(["many words here"] * 9),
        ),
        (parts("alternative", PLAIN + "Join.", "Content-Type: text/calendar\n\n" + EVENT), "\nJoin.\n\n" + EVENT_SHOWN),
        (HEAD + "Content-Type: text/calendar\n\n" + EVENT, "\n" + EVENT_SHOWN),
        (parts("related", HTML + "<p>Main", "Content-Type: text/css\n\np{}", HTML + "<p>Frame"), "\nMain\n\nFrame"),
        (
            parts("mixed", PLAIN + "See.", "Content-Type: message/rfc822\n\nFrom: Eve\nSubject: In\n\nInner."),
            "\nSee.\n\n---- Message ----\nFrom: Eve\nSubject: In\n\nInner.",
        ),
        (
            parts(
                "mixed",
                PLAIN + "See.",
                "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" + packed("From: Eve\n\nInner."),
            ),
            "\nSee.\n\n---- Message ----\nFrom: Eve\n\nInner.",
        ),
        (
            parts("digest", "\nSubject: One\n\nFirst.", "\nSubject: Two\n\nSecond."),
            "\n---- Message ----\nSubject: One\n\nFirst.\n\n---- Message ----\nSubject: Two\n\nSecond.",
        ),
        (
            parts(
                "report",
                PLAIN + "Failed.",
                "Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nAction: failed",
            ),
            "\nFailed.\n\nReporting-MTA: dns; x\n\nAction: failed",
        ),
        (
            parts("mixed", PLAIN + "See.", "Content-Type: text/csv\n" + ATTACHED.format("t.csv") + "a,b"),
            "Attached: t.csv\n\nSee.\n\n---- t.csv ----\na,b",
        ),
        (parts("mixed", PLAIN, "Content-Type: application/ms-tnef; name=winmail.dat\n\nAAAA"), "Attached: winmail.dat"),
        (
            parts(
                "mixed",
                PLAIN + "See.",
                "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n"
                + ATTACHED.format("x.bin")
                + "/9j/4AAQ\n",
            ),
            "Attached: x.bin\n\nSee.",
        ),
        (
            parts(
                "mixed",
                PLAIN + "See.",
                "Content-Type: application/pdf\nContent-Disposition: attachment; "
                "filename*0*=utf-8''%C3%9Cber; filename*1*=sicht.pdf\n\nx",
            ),
            "Attached: Übersicht.pdf\n\nSee.",
        ),
        (HEAD + "Content-Type: application/pdf\n\nJVBERi0", "Attached: application/pdf"),
        (parts("mixed", PLAIN + "One.", HTML + "<p>Two", boundary="other"), "\nOne.\n\nTwo"),
        (f"{HEAD}Content-Type: multipart/alternative\n\n--b\n{PLAIN}Words.\n--b--\n", "\nWords."),
        (f"{HEAD}Content-Type: multipart/mixed; boundary=x\n\nNo part, just words.\n", "\nNo part, just words."),
        (f"{HEAD}Content-Type: multipart/mixed; boundary=x\n\nAll before.\n--x--\n", "\nAll before."),
        (parts("mixed", PLAIN + "Cut.", ends=False), "\nCut."),
        (HEAD + "Content-Type: text\n\nWords.", "\nWords."),
        (HEAD + 'Content-Type: TEXT/HTML; CHARSET="UTF-8"\n\n<p>up<b>per</b>', "\nupper"),
        (HEAD + "Content-Type: text/plain; charset=foo bar\n\ngrün", "\ngrün"),
        (HEAD + "Content-Type: text/plain; charset=utf-7\n\nHi +AOQ-", "\nHi ä"),
        (
            HEAD + "Content-Type: text/plain; charset=utf-8\n"
            'Content-Transfer-Encoding: "quoted-printable" (x)\n\ngr=C3=BC=C3=9Fe',
            "\ngrüße",
        ),
        (HEAD + "Content-Transfer-Encoding: base64\n\nHello there, plain words.\n", "\nHello there, plain words."),
        (
            HEAD
            + "Content-Transfer-Encoding: base64\n\n"
            + packed("The whole body of the mail is in here.")
            + "\n____\nlist\n",
            "\nThe whole body of the mail is in here.\n\n____\nlist",
        ),
        (HEAD + "\n", ""),
    ],
)
def test_every_text_of_a_message_in_its_order(message: str, text: str) -> None:
    assert text_of("a.eml", message.encode()) == (SHOWN + text).strip()


def test_headers_are_read_however_they_are_encoded() -> None:
    word = [base64.b64encode("Grüße".encode()[at : at + 3]).decode() for at in (0, 3, 6)]
    subject = " ".join(f"=?utf-8?B?{each}?=" for each in word) + " =?utf-8?q?_aus_K=C3=B6ln?= und =?nobody?q?mehr?="
    assert text_of("a.eml", f"Subject: {subject}\n\nB".encode()) == "Subject: Grüße aus Köln und mehr\n\nB"
    for encoding in ("utf-8", "latin-1"):
        data = 'From: Jürgen Größe\nContent-Type: application/pdf; name="Übersicht.pdf"\n\nx'.encode(encoding)
        assert text_of("a.eml", data) == "From: Jürgen Größe\nAttached: Übersicht.pdf"


@pytest.mark.parametrize(
    ("message", "error_type"),
    [
        (HEAD + "Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nAAAA", "encrypted"),
        (HEAD + "Content-Type: application/pkcs7-mime; smime-type=signed-data\n\nAAAA", "unsupported_format"),
        (parts("encrypted", "Content-Type: application/pgp-encrypted\n\nVersion: 1"), "encrypted"),
        (HEAD + "\n-----BEGIN PGP MESSAGE-----\nAAAA\n-----END PGP MESSAGE-----\n", "encrypted"),
    ],
)
def test_a_body_that_nobody_can_read_is_an_error(message: str, error_type: str) -> None:
    with pytest.raises(Unreadable) as refused:
        text_of("a.eml", message.encode())
    assert refused.value.error_type == error_type


def test_an_mbox_file_is_all_its_messages() -> None:
    line = "From a@b Thu Jan  1 10:00:00 2026\n"
    box = f"{line}Subject: 1\nMIME-Version: 1.0\n\nOne.\n>From here.\n\nFrom the desk:\nNote: x\n\n"
    box += f"{line}Subject: 2\n\nTwo.\n"
    for name in ("a.mbox", "a.eml", "inbox"):
        text = "Subject: 1\n\nOne.\nFrom here.\n\nFrom the desk:\nNote: x\n\nSubject: 2\n\nTwo."
        assert text_of(name, box.encode()) == text


def test_a_message_is_known_by_headers_that_nothing_else_has() -> None:
    assert kind_of("saved.txt", f"{HEAD}\nBody".encode()) is Kind.MAIL
    assert kind_of("page.doc", b"MIME-Version: 1.0\nContent-Type: multipart/related; boundary=x\n\n") is Kind.MAIL
    for text in (
        b"From: Bob\nReceived: 3 boxes\nTotal: 5\n\nx",
        b"Title: x\n\nMessage-ID: <x>",
        b"From here on\nall is text",
    ):
        assert kind_of("note.txt", text) is Kind.TEXT


def test_base64_is_read_through_what_surrounds_it_and_a_cut_one_is_no_message() -> None:
    head, text = f"{HEAD}Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n", "All of what was said. " * 8
    quoted = "".join(f"> {line}" for line in packed(text).splitlines(keepends=True))
    for body in (packed(text), quoted, packed(text).replace("\n", "!\n", 1)):
        assert text_of("a.eml", (head + body).encode()) == f"{SHOWN}\n{text.strip()}"
    assert text_of("a.eml", f"{head}Thanks\n".encode()) == f"{SHOWN}\nThanks"
    with pytest.raises(Unreadable, match="base64 ends within a character"):
        text_of("a.eml", (head + packed(text).strip()[:-3]).encode())


def test_a_card_is_the_text_of_a_message_that_has_no_other() -> None:
    card = "BEGIN:VCARD\nFN:Ann\nEND:VCARD"
    assert text_of("a.eml", f"{HEAD}Content-Type: text/vcard\n\n{card}\n".encode()) == f"{SHOWN}\n{card}"
    beside = parts("mixed", PLAIN + "Hi.", f"Content-Type: text/vcard\n\n{card}")
    assert text_of("a.eml", beside.encode()) == f"{SHOWN}Attached: text/vcard\n\nHi."


def test_messages_of_an_mbox_need_no_empty_line_between_them() -> None:
    start = "From ann@x.org Mon Jan  5 10:00:00 2026\n"
    box = f"{start}Subject: one\n\nFirst.\n{start}Subject: two\nContent-Type: text/html\n\n<p>Sec<b>ond</b>.\n"
    assert text_of("a.mbox", box.encode()) == "Subject: one\n\nFirst.\n\nSubject: two\n\nSecond."
