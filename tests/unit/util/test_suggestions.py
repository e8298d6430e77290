import pytest

from aioq import App
from aioq.tasks import registry
from aioq.util.deferred_warnings import MOST, DeferredWarnings
from aioq.util.suggestions import did_you_mean

KNOWN = ("shop.tasks.add", "shop.tasks.total", "shop.mail.send_mail", "shop.old.total")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("shop.tasks.ad", "shop.tasks.add"),
        ("add", "shop.tasks.add"),
        ("other.place.add", "shop.tasks.add"),
        ("shop.mail.sendmail", "shop.mail.send_mail"),
        ("shop.task.total", "shop.tasks.total"),
        ("shop.tasks.mul", None),
        ("nothing.like_it", None),
        ("", None),
    ],
)
def test_the_nearest_name(name: str, near: str | None) -> None:
    assert did_you_mean(name, KNOWN) == ("" if near is None else f" (did you mean {near!r}?)")
    assert did_you_mean(name, ()) == ""


def test_a_name_that_is_nearly_one_of_the_apps_is_a_warning_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "DEFERRED", DeferredWarnings())
    app = App("shop", url="redis://nowhere")

    @app.task(name="shop.tasks.add")
    async def _add() -> None: ...

    for _ in range(3):
        app.by_name("shop.tasks.ad")
        app.by_name("shop.tasks.add")
        app.by_name("elsewhere.work")
    assert caplog.messages == [
        "task 'shop.tasks.ad' is not registered in app 'shop' (did you mean 'shop.tasks.add'?); "
        "it is sent as it is"
    ]


def test_warnings_have_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    deferred = DeferredWarnings()
    for number in range(MOST + 10):
        deferred.add(str(number))
    assert len(caplog.messages) == MOST
