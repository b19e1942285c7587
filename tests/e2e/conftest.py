def pytest_addoption(parser):
    parser.addoption(
        "--drill-full",
        action="store_true",
        default=False,
        help="the restore drill with 300 payments, not with 30",
    )
