"""`aioq.schedules.cron_text`: what lines are called, read by a person."""

import pytest

from aioq.schedules.cron import parse
from aioq.schedules.cron_text import ordinal

READINGS = {
    "* * * * *": "Every minute",
    "*/5 * * * *": "Every 5 minutes",
    "*/15 9-17 * * mon-fri": "Every 15 minutes from 09:00 through 17:59 on Monday through Friday",
    "0 6 * * mon-fri": "At 06:00 on Monday through Friday",
    "30 9 * * *": "At 09:30 every day",
    "0 0 1 1 *": "At 00:00 on January 1",
    "0 * * * *": "At the start of every hour",
    "15 * * * *": "At minute 15 of every hour",
    "0 0 31 * *": "At 00:00 on the 31st day of every month",
    "0 0 2,3,22,23,31 * *": "At 00:00 on the 2nd, the 3rd, the 22nd, the 23rd, and the 31st day of the month",
    "0 12 11-13 * *": "At 12:00 on every day of the month from the 11th through the 13th",
    "0 12 11,12,13 * *": "At 12:00 on the 11th, the 12th, and the 13th day of the month",
    "0 0 L * *": "At 00:00 on the last day of every month",
    "0 0 LW * *": "At 00:00 on the last weekday of every month",
    "0 9 * * 5L": "At 09:00 on the last Friday of the month",
    "0 9 * * fri#2": "At 09:00 on the second Friday of the month",
    "0 9 * * mon#1,mon#3": "At 09:00 on the first Monday of the month and the third Monday of the month",
    "0 0 1 */3 *": "At 00:00 on the 1st day of every third month",
    "0 0 */2 * *": "At 00:00 on every second day of the month from the 1st",
    "0 0 */10 * *": "At 00:00 on every 10th day of the month from the 1st",
    "0 0 1-7 * mon": "At 00:00 on every day of the month from the 1st through the 7th and on every Monday",
    "0 0 1-31 * mon": "At 00:00 every day",  # either will do, and one of them is every day
    "0 0 13 * 0-7": "At 00:00 every day",
    "0 0 13 6 0-6": "At 00:00 every day in June",
    "0 0 13 * fri": "At 00:00 on the 13th day of the month and on every Friday",
    "0 0 */31 * *": "At 00:00 on every 31st day of the month from the 1st",
    "0 */2 * * *": "At minute 0 of every second hour",
    "0 */6 * * *": "At minute 0 of every sixth hour",
    "5,35 8-10/2 * * *": "At minutes 5 and 35 of every second hour from 8 through 10",
    "0 9,17 * * sat,sun": "At 09:00 and 17:00 on Saturday and Sunday",
    "*/30 * * jan,jul *": "Every 30 minutes in January and July",
    "* 9 * * *": "Every minute from 09:00 through 09:59",
    "*/10 2 * * *": "Every 10 minutes from 02:00 through 02:59",
    "0 0 15 jan-feb *": "At 00:00 on the 15th day of January and February",
    "0 0 * * 0": "At 00:00 on Sunday",
    "5-5/2 * * * *": "At minute 5 of every hour",
    "*/21 * * * *": "Every 21st minute of every hour",
    "*/40 * * * * *": "At seconds 0 and 40 of every minute",
    "*/10 * * * * *": "Every 10 seconds",
    "* * * * * *": "Every second",
    "30 * * * * *": "At second 30 of every minute",
    "0,30 * * * * *": "Every 30 seconds",
    "15,45 */5 * * * *": "Every 5 minutes, at seconds 15 and 45",
    "10-20 0 6 * * *": "At 06:00 every day, every second from 10 through 20 of the minute",
    "*/5 0 6 * * mon-fri": "At 06:00 on Monday through Friday, every 5 seconds of the minute",
    "30 30 9 * * *": "At 09:30:30 every day",
    "5/10 * * * * *": "At seconds 5, 15, 25, 35, 45, and 55 of every minute",
    "*/22 0 * * *": "Every 22nd minute from 00:00 through 00:59",
    "0 0 L 2 *": "At 00:00 on the last day of February",
    "0 0 29 2 *": "At 00:00 on February 29",
    "0 9 */2 * mon-fri": "At 09:00 on every second day of the month from the 1st if it's Monday through Friday",
    "0 9 * */2 *": "At 09:00 every day in every second month",
    "0 9 1,15 * mon": "At 09:00 on the 1st and the 15th day of the month and on every Monday",
    "0 22 * * 1-5": "At 22:00 on Monday through Friday",
    "23 0-20/2 * * *": "At minute 23 of every second hour from 0 through 20",
    "*/1 * * * *": "Every minute",
    "0-59 * * * *": "Every minute",
    "0 9 * * 1-7": "At 09:00 on Monday through Sunday",
    "0 9 * * */2": "At 09:00 on every second day of the week from Sunday",
    "0-30 * * * *": "Every minute from minute 0 through 30 of every hour",
    "0 9 * * mon-mon/2": "At 09:00 on Monday",
    "1-5,10 * * * *": "Every minute from minute 1 through 5 and minute 10 of every hour",
    "*/5,3 * * * *": "Every fifth minute and minute 3 of every hour",
    "0-30/2 * * * *": "Every 2nd minute from minute 0 through 30 of every hour",
    "*/2 * * * *": "Every 2 minutes",
    "*/2 */2 * * *": "Every 2nd minute of every second hour",
    "0 0 1 jan-mar *": "At 00:00 on the 1st day of every month from January through March",
    "0 9 1 */6 mon": "At 09:00 on the 1st day of the month and on every Monday in every sixth month",
    "*/20 0-30 * * * *": "Every 20 seconds from minute 0 through 30 of every hour",
    "30 0 9 * * mon-fri": "At 09:00:30 on Monday through Friday",
    "30 0,30 9,10,11 * * *": "At minutes 0 and 30 past hours 9, 10, and 11, at second 30",
    "*/7 * * * * *": "Every 7th second from 0 through 56 of every minute",
    "1-59/2 * * * * *": "Every 2nd second from 1 through 59 of every minute",
    "0 0 */2 1 *": "At 00:00 on every second day of the month from the 1st in January",
    "0 0 */2 * sun": "At 00:00 on every second day of the month from the 1st if it's Sunday",
    "0 12 * * mon,wed,fri": "At 12:00 on Monday, Wednesday, and Friday",
    "0 12 L,15 * *": "At 12:00 on the last and the 15th day of the month",
    "0 12 LW,1 * *": "At 12:00 on the last weekday of the month and the 1st day of the month",
    "0 0 1 1 mon": "At 00:00 on the 1st day of the month and on every Monday in January",
    "0 0 5-10/2 * *": "At 00:00 on every second day of the month from the 5th through the 10th",
    "59 23 31 12 *": "At 23:59 on December 31",
    "0 0 * 2 *": "At 00:00 every day in February",
    "0 0 * mar-may *": "At 00:00 every day from March through May",
    "15 10 * * 6#3": "At 10:15 on the third Saturday of the month",
    "0 8-18/2,22 * * *": "At minute 0 of every second hour from 8 through 18 and hour 22",
    "* * * * 1": "Every minute on Monday",
    "* * 1 * *": "Every minute on the 1st day of every month",
    "10-20 * * * * mon": "Every second from 10 through 20 of every minute on Monday",
    "5 0 * * * *": "At the start of every hour, at second 5",
}


@pytest.mark.parametrize(("line", "words"), READINGS.items())
def test_a_line_is_called(line: str, words: str):
    assert parse(line).explain() == words


def test_ordinals():
    words = [ordinal(number) for number in (1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 30, 31, 101, 111)]
    expected = "1st 2nd 3rd 4th 10th 11th 12th 13th 14th 20th 21st 22nd 23rd 24th 30th 31st 101st 111th"
    assert " ".join(words) == expected
